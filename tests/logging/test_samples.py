import json

import pytest

from transformerlm.logging import Sample, SamplesFile, names, read_samples


def values(prompt, text):
    return {names.PROMPT: prompt, names.OUTPUT: text, names.TEMPERATURE: 0.8}


def filled(path, steps):
    with SamplesFile(path) as file:
        for step in steps:
            file.add(values("The ", f"fox {step}\n☃"), step, step / 3)
    return file


def test_a_line_has_the_keys_that_the_docs_promise(tmp_path):
    filled(tmp_path / "samples.jsonl", [5])
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 5,
        "time": 1.667,
        "prompt": "The ",
        "text": "fox 5\n☃",
        **values("The ", "fox 5\n☃"),
    }
    assert read_samples(tmp_path / "samples.jsonl") == [Sample(5, "The ", "fox 5\n☃", 1.667)]


def test_rewinding_drops_later_steps_wherever_they_are_and_a_torn_line(tmp_path):
    path = tmp_path / "samples.jsonl"
    filled(path, [10, 20, 30, 15]).rewind(20)
    with path.open("ab") as file:
        file.write(b'{"step": 12, "prom')
    SamplesFile(path).rewind(15)
    assert [sample.step for sample in read_samples(path)] == [10, 15]
    filled(path, [20]).drop(10)
    assert [sample.step for sample in read_samples(path)] == [15, 20]


def test_metrics_are_not_its_business(tmp_path):
    with SamplesFile(tmp_path / "samples.jsonl") as file:
        file.log({names.LOSS: 1.0}, 3)
        file.rewind(0)
    assert list(tmp_path.iterdir()) == []
    assert read_samples(tmp_path / "samples.jsonl") == []


@pytest.mark.parametrize("line", ['{"step": "x", "prompt": 3}', "[]", "{}", '{"step": null}', "x"])
def test_what_is_no_sample_does_no_harm(line, tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(line + "\n")
    read_samples(path)
    filled(path, [4]).rewind(4)
    assert read_samples(path)[-1].step == 4


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"step": 6, **values("A", "b")}) + "\n")
    assert read_samples(path) == [Sample(6, "A", "b", None)]
