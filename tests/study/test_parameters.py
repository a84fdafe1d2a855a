"""A parameter has the type of its default, whether papermill passed it as a value or as text."""

import pytest

from fgvc_study.parameters import parse_parameters


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (list, "[2, 5]", [2, 5]),
        (list, "[[0.3, 0.0], [None]]", [[0.3, 0.0], [None]]),
        (list, "[]", []),
        (list, "(1, 2)", [1, 2]),
        (list, [1], [1]),
        (dict, "{'lr': 0.1, 'data_args': {'per_class': 4}}", {"lr": 0.1, "data_args": {"per_class": 4}}),
        (dict, {}, {}),
        (str, "[2, 5]", "[2, 5]"),  # a folder may be named so
        (float, 10, 10.0),
        (int, 3, 3),
        (bool, False, False),
    ],
)
def test_a_parameter_gets_the_type_of_its_default(kind, given, value):
    chapter = {"knob": given, "max_steps": None}
    parse_parameters(chapter, knob=kind)
    assert chapter == {"knob": value, "max_steps": None}
    assert type(chapter["knob"]) is kind


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (list, "[2, 5"),
        (list, "2 5"),
        (list, "xis"),
        (list, "{'a': 1}"),
        (list, "[f(2)]"),
        (list, 5),
        (dict, "{a: 1}"),
        (dict, "{[]: 1}"),
        (dict, "[1]"),
        (bool, "false"),  # which is true, as text
        (bool, 1),
        (int, "3x"),
        (int, True),
        (int, 1.5),
        (str, 7),
        (list, None),
    ],
)
def test_what_has_another_type_is_refused_in_a_sentence(kind, given):
    chapter = {"knob": given}
    with pytest.raises(ValueError, match=rf"^the parameter knob must be of type {kind.__name__}, got .*: write it as"):
        parse_parameters(chapter, knob=kind)
    assert chapter == {"knob": given}
