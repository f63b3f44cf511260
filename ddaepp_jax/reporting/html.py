"""Pieces of a page that stands alone: one file, no script, nothing asked of a network; it fits a
phone.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_html

from matplotlib.figure import Figure

from ddaepp_jax.reporting import plots

CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:1100px;margin:auto;padding:28px 16px}
h1,h3,p,code,small{overflow-wrap:anywhere} h1{font-size:clamp(20px,5.6vw,26px);line-height:1.2;margin:0} p{margin:6px 0}
h2{font-size:19px;margin:44px 0 14px;padding-bottom:5px;border-bottom:1px solid #ddd}
h3{font-size:15px;margin:22px 0 8px} nav{margin:10px 0 22px} a{color:#1f5fa8;margin-right:16px}
code{font-size:12.5px} summary{cursor:pointer;margin:14px 0 8px}
.quiet,figcaption,dt,small{color:#5c5c5c;font-size:13px} small{display:block;font-size:12px;line-height:1.35}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:10px;margin:0} dd{margin:0;font-size:21px}
.tiles div{border:1px solid #ddd;border-radius:5px;padding:9px 12px;min-width:0}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:22px;align-items:start}
.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))} .grid>*{min-width:0}
figure{margin:0} img{display:block;max-width:100%;height:auto} .plot img{width:100%} .plot figcaption{color:#1a1a1a}
.strip{display:flex;gap:12px;overflow-x:auto;padding-bottom:8px;margin-top:18px} .strip figure{flex:0 0 170px}
.wide{overflow-x:auto} table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:4px 18px 4px 0;border-bottom:1px solid #e6e6e6}
.numbers td,.numbers th{text-align:right} .numbers :first-child{text-align:left} .numbers :last-child{padding-right:0}
td code,.numbers td:first-child{white-space:nowrap} .groups td code{white-space:normal}
.groups{columns:3 300px;column-gap:28px} .groups section{break-inside:avoid;margin-bottom:14px} .groups h3{margin:0}
.key{margin-right:18px;white-space:nowrap} .key i{display:inline-block;width:22px;margin-right:8px;vertical-align:4px}
@media(max-width:700px){.tiles{grid-template-columns:repeat(2,1fr)}}
"""


def page(title: str, about: str, top: str, sections: Mapping[str, str]) -> str:
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(
        f'<h2 id="{name.lower()}">{name}</h2>\n{content}\n' for name, content in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{about}<nav>{links}</nav>{top}\n{body}</body></html>\n"
    )


def escape(text: object) -> str:
    return escape_html(str(text))


def tag(tag: str, text: object) -> str:
    return f"<{tag}>{escape(text)}</{tag}>"


def key(name: str, colour: str, dashes: str) -> str:
    """A run's name behind its line."""
    return (
        f'<span class="key"><i style="border-top:3px {dashes} {colour}"></i>{escape(name)}</span>'
    )


def table(header: Sequence[str], cells: Iterable[Sequence[str]], kind: str = "") -> str:
    """Of HTML, in a box that scrolls."""
    head = (
        f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr></thead>"
        if header
        else ""
    )
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    return f'<div class="wide"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'


def grid(cells: Iterable[str], kind: str = "") -> str:
    inside = "".join(f"<div>{cell}</div>" for cell in cells)
    return f'<div class="grid {kind}">{inside}</div>' if inside else ""


def plot(title: str, figure: Figure) -> str:
    image = (
        f'<img alt="{escape(title)}" src="{_data("image/svg+xml", plots.svg(figure).encode())}">'
    )
    return f'<figure class="plot"><figcaption>{escape(title)}</figcaption>{image}</figure>'


def picture(caption: str, content: bytes) -> str:
    image = f'<img alt="samples, {escape(caption)}" src="{_data("image/png", content)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
