import json
import re

import pytest

from tests.report.written_runs import FACTS, records, write_run, write_samples
from transformerlm.logging import names
from transformerlm.report import read_run, report_html, write_report
from transformerlm.report.charts import CHARTS, NUM_PARTS
from transformerlm.report.page import embedded

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028 {{ 7*7 }} <!-- ]]> \x00 \ud800"
)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def test_values_on_the_page_are_those_of_the_file(tmp_path):
    run_dir = write_run(tmp_path / "run")
    page = report_html([read_run(run_dir)])
    series = data_of(page)["runs"][0]["series"]
    assert series.keys() == {key for chart in CHARTS for key, _ in chart.series}
    for key, name in (pair for chart in CHARTS for pair in chart.series):
        assert dict(zip(series[key]["step"], series[key]["value"], strict=True)) == records(run_dir, name)


def test_a_long_run_stays_small_and_keeps_its_spike(tmp_path):
    spike = {names.LOSS: 57.5, names.GRAD_L2_NORM: 1e6}
    run_dir = write_run(tmp_path / "run", 30_000, every=1, changes={12_345: spike})
    size = write_report([run_dir], tmp_path / "report.html")
    assert size == (tmp_path / "report.html").stat().st_size < 1_000_000
    series = data_of((tmp_path / "report.html").read_text())["runs"][0]["series"]
    for key, value in (("loss", 57.5), ("grad_norm", 1e6)):
        assert len(series[key]["step"]) <= 7 * NUM_PARTS
        assert series[key]["value"][series[key]["step"].index(12_345)] == value


def test_gaps_stay_gaps_and_nan_is_a_value(tmp_path):
    changes = dict.fromkeys(range(500, 900, 10)) | {1000: {names.LOSS: float("nan")}}
    series = data_of(report_html([read_run(write_run(tmp_path / "run", changes=changes))]))
    loss = series["runs"][0]["series"]["loss"]
    where = loss["step"].index(490)
    assert loss["step"][where : where + 3] == [490, None, 900]
    assert [column[where + 1] for column in loss.values()] == [None] * 5
    assert loss["value"][loss["step"].index(1000)] == "NaN"


def test_no_text_becomes_a_tag(tmp_path):
    run_dir = write_run(tmp_path / "<b>run&", facts=FACTS | {"device": HOSTILE})
    write_samples(run_dir, [(10, HOSTILE, HOSTILE)])
    config = {"data": {"corpus": HOSTILE.replace("\ud800", "")}}
    (run_dir / "config.toml").write_text(f"[data]\ncorpus = {json.dumps(config['data']['corpus'])}\n")
    write_report([run_dir], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert "<b>run" not in page
    assert "{{ 7*7 }}" in page
    assert "\x00" not in page


def test_embedded_json_has_no_tags_and_reads_back():
    text = embedded({"a": HOSTILE.replace("\ud800", "")})
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == {"a": HOSTILE.replace("\ud800", "")}


def test_the_page_names_no_other_place(tmp_path):
    page = report_html([read_run(write_run(tmp_path / "run"))])
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src &#39;none&#39;" in page
    assert "unsafe" not in page


@pytest.mark.parametrize("num_records", [0, 1, 2])
def test_a_run_that_has_just_begun_has_a_page(num_records, tmp_path):
    run_dir = write_run(tmp_path / "run", num_records)
    (run_dir / "config.toml").write_text("")
    assert "<h1>run</h1>" in report_html([read_run(run_dir)])
