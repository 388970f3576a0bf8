"""The report of one or several runs: one HTML page that needs no network, no server and no library.

`metrics.py` reads metrics.jsonl, `run.py` all else in a run's folder, `marks.py` finds what interrupted a
run, `reduce.py` thins long series without losing a spike or a gap, `charts.py` makes the page's data,
`figures.py` its numbers and tables, `page.py` writes it from `page.html`, `page.css` and `page.js`. `png.py`
draws for papers, `serve.py` shows the page of a run that is going on.

`card.py` writes the model card of an exported folder, for which `card_source.py` collects what is known.
"""

from transformerlm.report.page import report_html, write_report
from transformerlm.report.run import Run, read_run

__all__ = ["Run", "read_run", "report_html", "write_report"]
