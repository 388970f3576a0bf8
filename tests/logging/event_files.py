"""Event files as TensorBoard's own server reads them."""

import pytest

accumulator = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
tensor_util = pytest.importorskip("tensorboard.util.tensor_util")


def read(folder):
    everything = {accumulator.TENSORS: 0}
    return accumulator.EventAccumulator(str(folder), size_guidance=everything).Reload()


def scalars(folder, tag="metrics/loss"):
    return [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in read(folder).Tensors(tag)]


def texts(folder, tag):
    found = [(event.step, event.tensor_proto.string_val) for event in read(folder).Tensors(tag)]
    assert read(folder).SummaryMetadata(tag).plugin_data.plugin_name == "text"
    return [(step, text.decode()) for step, (text,) in found]
