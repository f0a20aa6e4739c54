"""The measurement of docstrings, and its result for the packages."""

import pytest

from benchmarks import docstrings

ARRAY = "import numpy as np\n"
HELPER = "def _check(n: int) -> None:\n    raise UserError('bad')\n"


@pytest.mark.parametrize(
    "source,lacks",
    [
        ("def f() -> None:\n    'Text.'\n", {}),
        ("def f() -> None:\n    pass\n", {"docstring": "none"}),
        ("def _f() -> None:\n    pass\n", None),
        ("def f(a: int, b: int) -> None:\n    'Text.'\n", {"arguments": "a, b"}),
        ("def f(a: int, b: int) -> None:\n    'Text of `a`.'\n", {}),
        ("def f(config: Config, mesh: Mesh) -> None:\n    'Text.'\n", {}),
        ("def f(n: int) -> None:\n    'Text.'\n    raise UserError(n)\n", {"raises": "UserError"}),
        ("def f(n: int) -> None:\n    'UserError: bad.'\n    raise UserError(n)\n", {}),
        (f"{HELPER}def f(n: int) -> None:\n    'Text.'\n    _check(n)\n", {"raises": "UserError"}),
        (
            f"{HELPER}def f(n: int) -> None:\n    'Text.'\n    try:\n        _check(n)\n"
            "    except UserError:\n        pass\n",
            {},
        ),
        (
            "def f(n: int) -> None:\n    'Text.'\n    raise (OneError if n else TwoError)(n)\n",
            {"raises": "OneError, TwoError"},
        ),
        ("def f(a: np.ndarray) -> None:\n    'Text.'\n", {"shapes": "no shape or dtype"}),
        ("def f(a: np.ndarray) -> None:\n    'Text of float32 [n].'\n", {}),
        ("def f(a: Float[jax.Array, 'n']) -> None:\n    'Text.'\n", {}),
        (
            "class C:\n    'Of `a`.'\n    def f(self, a: int, b: int) -> None:\n        'X.'\n",
            {},
        ),
        ("class C:\n    'Text.'\n    def f(self) -> None:\n        pass\n", {"docstring": "none"}),
        ("class C(Protocol):\n    'Text.'\n    def f(self) -> None: ...\n", None),
        ("class _C:\n    def f(self) -> None:\n        pass\n", None),
    ],
)
def test_missing_parts_of_docstring(source, lacks):
    found = docstrings.measure(ARRAY + source, "module")
    assert [one.lacks for one in found] == ([] if lacks is None else [lacks])


@pytest.mark.parametrize(
    "part,least", [("docstring", 1.0), ("arguments", 0.9), ("raises", 0.85), ("shapes", 0.85)]
)
def test_public_functions_have_required_parts(part, least):
    needing = [one for one in docstrings.measure_packages() if part in one.needs]
    lacking = [one.name for one in needing if part in one.lacks]
    assert len(lacking) <= (1 - least) * len(needing), lacking
