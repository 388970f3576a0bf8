import json

from transformerlm.logging import CombinedLogger, RunHistory, read_history


def test_a_history_has_what_was_added_and_roll_backs(tmp_path):
    history = RunHistory(tmp_path)
    history.add("start", 0, device="cpu")
    with CombinedLogger([history]) as logger:
        logger.log({"metrics.loss": 1.0}, 7)
        logger.rewind(4)
    found = read_history(tmp_path)
    assert [(record["event"], record["step"]) for record in found] == [("start", 0), ("roll back", 4)]
    assert (found[0]["device"], found[1]["from_step"]) == ("cpu", 7)


def test_damaged_lines_are_left_out(tmp_path):
    RunHistory(tmp_path).add("start", 0)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'[]\n{"event": "stop"}\n\xff\n{"event": "stop", "step": ')
    assert [record["event"] for record in read_history(tmp_path)] == ["start"]
    assert read_history(tmp_path / "elsewhere") == []


def test_where_it_cannot_be_written_nothing_happens(tmp_path):
    (tmp_path / "history.jsonl").mkdir()
    RunHistory(tmp_path).add("start", 0)
    RunHistory(tmp_path / "missing").add("start", 0)
    assert json.dumps(read_history(tmp_path)) == "[]"
