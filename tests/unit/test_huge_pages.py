"""Programs ask for huge memory pages."""

import pytest

from ddaepp_jax.cli.huge_pages import environment

ON_REQUEST = "always [madvise] never\n"


@pytest.mark.parametrize(
    "before, after",
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
    ],
)
def test_the_tunable_joins_others(before, after):
    assert environment({"A": "b", **before}, ON_REQUEST) == {"A": "b", "GLIBC_TUNABLES": after}


@pytest.mark.parametrize(
    "tunables, policy",
    [
        ("glibc.malloc.hugetlb=0", ON_REQUEST),
        ("", "[always] madvise never\n"),
        ("", "always madvise [never]\n"),
    ],
    ids=["set", "always", "never"],
)
def test_nothing_changes_where_it_is_set_or_has_no_use(tunables, policy):
    assert environment({"GLIBC_TUNABLES": tunables}, policy) is None
