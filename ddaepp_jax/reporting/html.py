"""Pieces of an HTML page in a single file, without scripts or downloads, readable on a phone."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from ddaepp_jax.reporting import plots

CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:1100px}
body{margin:auto;padding:28px 16px} h1,h3,p,code,small{overflow-wrap:anywhere}
h1{font-size:clamp(20px,5.6vw,26px);line-height:1.2;margin:0} p{margin:6px 0}
h2{font-size:19px;margin:44px 0 14px;padding-bottom:5px;border-bottom:1px solid #ddd}
h3{font-size:15px;margin:22px 0 8px} a{color:#1f5fa8}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:10px 0 22px}
code{font-size:12.5px} summary{cursor:pointer;margin:14px 0 8px}
.quiet,figcaption,dt,small{color:#5c5c5c;font-size:13px}
small{display:block;font-size:12px;line-height:1.35}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:10px;margin:0}
.tiles div{border:1px solid #ddd;border-radius:5px;padding:9px 12px;min-width:0}
dd{margin:0;font-size:21px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr))}
.grid{gap:22px;align-items:start} .grid>*{min-width:0}
.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
figure{margin:0} img{display:block;max-width:100%;height:auto}
.warning{color:#a33a12;margin:0 0 14px}
.plot img{width:100%} .plot figcaption{color:#1a1a1a}
.strip{display:flex;gap:12px;overflow-x:auto;padding-bottom:8px;margin-top:18px}
.strip figure{flex:0 0 170px}
.wide{overflow-x:auto;background:
linear-gradient(to right,#fff 30%,transparent) left/40px 100% no-repeat local,
linear-gradient(to left,#fff 30%,transparent) right/40px 100% no-repeat local,
linear-gradient(to right,#0003,transparent) left/10px 100% no-repeat scroll,
linear-gradient(to left,#0003,transparent) right/10px 100% no-repeat scroll}
table{border-collapse:collapse;font-size:13.5px}
table{font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:4px 18px 4px 0;border-bottom:1px solid #e6e6e6}
.numbers td,.numbers th{text-align:right} .numbers :first-child{text-align:left}
.numbers :last-child{padding-right:0}
td code,.numbers td:first-child{white-space:nowrap} .groups td code{white-space:normal}
.groups{columns:3 300px;column-gap:28px} .groups h3{margin:0}
.groups section{break-inside:avoid;margin-bottom:14px}
.key{display:inline-flex;margin-right:18px;white-space:nowrap}
.key i{flex:none;width:22px;height:0;margin:.65em 8px 0 0}
@media(max-width:700px){.tiles{grid-template-columns:repeat(2,1fr)}
table{font-size:12px} th,td{padding-right:10px} td code{white-space:normal}
.key{white-space:normal;overflow-wrap:anywhere}
td .key,th .key{min-width:90px;max-width:34vw;margin-right:0}}
"""


def document(title: str, about: str, top: str, sections: Mapping[str, str]) -> str:
    """Returns a whole page.

    Args:
      title: the page's title, as plain text.
      about: HTML below the title.
      top: HTML below the links to the sections.
      sections: HTML of each section by its heading.
    """
    links = [f'<a href="#{name.lower()}">{name}</a>' for name in sections]
    parts = [
        f'<h2 id="{name.lower()}">{name}</h2>\n{content}\n' for name, content in sections.items()
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{about}<nav>{''.join(links)}</nav>{top}\n"
        f"{''.join(parts)}</body></html>\n"
    )


def escape(text: str) -> str:
    """Returns text whose special characters are HTML entities."""
    return html.escape(text)


def tag(name: str, text: str) -> str:
    """Returns an element that holds plain text."""
    return f"<{name}>{escape(text)}</{name}>"


def left_out(lines: Iterable[str]) -> str:
    """Returns a paragraph for each file that the page leaves out."""
    return "".join(f'<p class="warning">Left out: {escape(line)}</p>' for line in lines)


def quiet(content: str) -> str:
    """Returns a grey paragraph of HTML content."""
    return f'<p class="quiet">{content}</p>'


def key(name: str, colour: str, dashes: str) -> str:
    """Returns a run's name after a sample of its line, as in a legend."""
    line = f'<i style="border-top:3px {dashes} {colour}"></i>'
    return f'<span class="key">{line}{escape(name)}</span>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """Returns a table of HTML cells, in a box that scrolls sideways; a shadow marks a hidden part.

    Args:
      header: the columns' titles; () leaves the header out.
      rows: the cells of each row.
      style: a CSS class; "numbers" aligns all columns but the first to the right.
    """
    titles = "".join(f"<th>{cell}</th>" for cell in header)
    head = f"<thead><tr>{titles}</tr></thead>" if header else ""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="{style}">{head}<tbody>{body}</tbody></table></div>'


def grid(cells: Iterable[str], style: str = "") -> str:
    """Returns HTML cells in as many columns as fit, at most two with the style "two"."""
    content = "".join(f"<div>{cell}</div>" for cell in cells)
    return f'<div class="grid {style}">{content}</div>' if content else ""


def plot(title: str, figure: Figure) -> str:
    """Returns a figure as an SVG below its title."""
    source = _inline("image/svg+xml", plots.svg(figure).encode(errors="replace"))
    image = f'<img alt="{escape(title)}" src="{source}">'
    return f'<figure class="plot"><figcaption>{escape(title)}</figcaption>{image}</figure>'


def picture(caption: str, png: bytes) -> str:
    """Returns a picture of samples above its caption."""
    image = f'<img alt="samples, {escape(caption)}" src="{_inline("image/png", png)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _inline(media_type: str, content: bytes) -> str:
    """Returns an address that holds the content itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
