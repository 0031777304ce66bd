import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from distill.errors import UserError
from distill.serving.external import external_files
from distill.serving.session import open_session


def external(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    if location:
        tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    return tensor


def graph(nodes, initializers=(), name="g") -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("y", 1, [4])], list(initializers))


def model(body: onnx.GraphProto, functions=()) -> bytes:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    return helper.make_model(body, opset_imports=opsets, functions=list(functions)).SerializeToString()


IDENTITY = helper.make_node("Identity", ["w"], ["y"])
INSIDE = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")


def hiding_places():
    constant = helper.make_node("Constant", [], ["y"], value=external("hidden.bin"))
    inner = graph([constant], name="inner")
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    many = helper.make_node("Own", [], ["y"], domain="own", tensors=[INSIDE, external("hidden.bin")])
    function = helper.make_function("own", "F", [], ["y"], [constant], [helper.make_opsetid("", 20)])
    sparse = onnx.SparseTensorProto(values=external("hidden.bin"), indices=INSIDE, dims=[4])
    body = graph([IDENTITY])
    body.sparse_initializer.append(sparse)
    return {
        "initializer": model(graph([IDENTITY], [INSIDE, external("hidden.bin")])),
        "constant": model(graph([constant])),
        "branch": model(graph([branch])),
        "list of tensors": model(graph([many])),
        "function": model(graph([IDENTITY], [INSIDE]), [function]),
        "sparse": model(body),
    }


@pytest.mark.parametrize("place", hiding_places())
def test_external_weights_are_found_wherever_they_hide(place):
    content = hiding_places()[place]
    assert external_files(content) == ["hidden.bin"]
    with pytest.raises(UserError, match=r"keeps weights in other files \(hidden\.bin\)"):
        open_session(content)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.bin", "beside.bin"])
def test_every_location_is_refused(location, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.bin").write_bytes(bytes(16))
    with pytest.raises(UserError, match="keeps weights in other files"):
        open_session(model(graph([IDENTITY], [external(location)])))


def test_a_location_left_out_is_still_external():
    assert external_files(model(graph([IDENTITY], [external("")]))) == ["(unnamed)"]


def test_a_model_with_its_own_weights_loads():
    content = model(graph([IDENTITY], [INSIDE]))
    assert external_files(content) == []
    assert open_session(content).run(None, {})[0].tolist() == [0, 1, 2, 3]


@given(st.binary(max_size=200))
def test_noise_is_refused_or_harmless(content):
    try:
        assert isinstance(external_files(content), list)
    except UserError as error:
        assert "damaged" in str(error)
