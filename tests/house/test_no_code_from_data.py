"""What we load is data: nothing of ours turns bytes, texts or names from elsewhere into code.

Every call and import of every file of ours is looked at, under whatever name it was imported. An
exception stands in `ALLOWED` with its reason, and is taken out again once nothing needs it.
"""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("setup.py", "megatron_math/**/*.py", "tools/**/*.py", "examples/**/*.py")

ALLOWED = {
    ("megatron_math/checkpoint/pickles.py", "imports pickle"): (
        "the restricted reader that everything of Megatron's format goes through"
    ),
    ("megatron_math/checkpoint/guard.py", "imports pickle"): (
        "torch writes .metadata with pickle.dump; its pickle.load is what gets replaced"
    ),
    ("megatron_math/checkpoint/writer.py", "imports pickle"): (
        "torch's format wants .metadata pickled; it is written there, never read"
    ),
    ("megatron_math/base/config.py", "yaml.load without a safe loader"): (
        "the loader is derived from SafeLoader, in the same file"
    ),
    ("megatron_math/sandbox/snippet.py", "exec"): (
        "untrusted code is what it is for, in a process that is isolated before"
    ),
    ("megatron_math/sandbox/snippet.py", "compile"): "the same code, one line above",
    ("megatron_math/curate/recall/round.py", "imports multiprocessing"): (
        "pipes to processes of our own, started by this one, that nobody else can open"
    ),
    ("megatron_math/curate/recall/round.py", "concurrent.futures.ProcessPoolExecutor"): (
        "what runs in these processes"
    ),
    ("megatron_math/tokenizer/reference_process.py", "imports multiprocessing"): (
        "a socket pair to a process of our own, started by this one, that nobody else can open"
    ),
}

MODULES = {
    "pickle", "_pickle", "pickletools", "cPickle", "cloudpickle", "dill", "jsonpickle", "marshal",
    "shelve", "joblib", "multiprocessing", "code", "codeop", "runpy",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp",
    "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.unsafe_load", "yaml.full_load",
    "yaml.unsafe_load_all", "yaml.full_load_all", "yaml.load_all", "torch.hub.load",
    "torch.jit.load", "pandas.read_pickle", "numpy.core.multiarray._reconstruct",
    "concurrent.futures.ProcessPoolExecutor",
}  # fmt: skip
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def names_of(tree: ast.AST) -> dict[str, str]:
    """Name in this file -> what it is: 'np' -> 'numpy', 'load' -> 'torch.load'."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """'torch.load' for what is written as `torch.load`, `t.load` or `load`; '' for other things."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id).removeprefix("builtins.")
    if isinstance(node, ast.Attribute):
        head = dotted(node.value, names)
        return f"{head}.{node.attr}".removeprefix("builtins.") if head else f"?.{node.attr}"
    return ""


def breaches(source: str) -> list[str]:
    """What `source` does that could run what it is given."""
    tree = ast.parse(source)
    names = names_of(tree)
    found = [f"imports {top}" for top in sorted(imported(tree)) if top in MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += called(node, names)
        elif dotted(node, names) in CALLS and isinstance(node, ast.Name | ast.Attribute):
            found.append(dotted(node, names))  # handed on, or called: both count once below
    return list(dict.fromkeys(found))


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Call) and dotted(node.func, {}).endswith("import_module"):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return {str(name).split(".")[0] for name in found}


def called(call: ast.Call, names: dict[str, str]) -> list[str]:
    """Faults of the arguments."""
    function = dotted(call.func, names)
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}

    def is_exactly(keyword: str, value: object) -> bool:
        node = given.get(keyword)
        return isinstance(node, ast.Constant) and node.value is value

    found = []
    if function == "torch.load" and not is_exactly("weights_only", True):
        found.append("torch.load without weights_only=True")
    if function == "yaml.load":
        loaders = [*call.args[1:], *(given[k] for k in ("Loader",) if k in given)]
        if [dotted(loader, names) in SAFE_LOADERS for loader in loaders] != [True]:
            found.append("yaml.load without a safe loader")
    found += [
        f"{keyword} may be true"
        for keyword in ("allow_pickle", "trust_remote_code", "shell")
        if keyword in given and not is_exactly(keyword, False)
    ]
    head, _, method = function.rpartition(".")
    if method == "from_pretrained" and head.startswith("transformers."):
        if not is_exactly("trust_remote_code", False):
            found.append("from_pretrained without trust_remote_code=False")
        if "Model" in head and not is_exactly("use_safetensors", True):
            found.append("from_pretrained without use_safetensors=True")
    return found


def ours() -> list[Path]:
    return sorted(path for pattern in OURS for path in REPOSITORY.glob(pattern))


def test_no_file_of_ours_runs_what_it_reads() -> None:
    found = {
        (str(path.relative_to(REPOSITORY)), breach)
        for path in ours()
        for breach in breaches(path.read_text())
    }
    assert len(ours()) > 200
    new = sorted(found - set(ALLOWED))
    assert not new, f"find another way, or say in ALLOWED why there is none: {new}"
    unused = sorted(set(ALLOWED) - found)
    assert not unused, f"nothing needs these any more: {unused}"


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        ("import pickle", "imports pickle"),
        ("def f():\n    from pickle import loads as read", "imports pickle"),
        ("import cloudpickle.compat", "imports cloudpickle"),
        ("importlib.import_module('dill')", "imports dill"),
        ("from importlib import import_module\nimport_module('marshal')", "imports marshal"),
        ("import shelve", "imports shelve"),
        ("eval('1')", "eval"),
        ("import builtins\nbuiltins.exec(text)", "exec"),
        ("run = eval\nrun(text)", "eval"),
        ("map(eval, texts)", "eval"),
        ("from os import system as call\ncall('ls')", "os.system"),
        ("import os\nos.popen('ls')", "os.popen"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import yaml\nyaml.load(text)", "yaml.load without a safe loader"),
        ("import yaml\nyaml.load(text, Loader=yaml.Loader)", "yaml.load without a safe loader"),
        ("import yaml as y\ny.load(text, y.FullLoader)", "yaml.load without a safe loader"),
        ("from yaml import unsafe_load\nunsafe_load(text)", "yaml.unsafe_load"),
        ("import torch\ntorch.load(path)", "torch.load without weights_only=True"),
        ("from torch import load\nload(path, weights_only=False)",
         "torch.load without weights_only=True"),
        ("import torch\ntorch.load(path, weights_only=safe)",
         "torch.load without weights_only=True"),
        ("import torch\ntorch.jit.load(path)", "torch.jit.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "allow_pickle may be true"),
        ("import numpy\nnumpy.load(path, allow_pickle=chosen)", "allow_pickle may be true"),
        ("subprocess.run(text, shell=True)", "shell may be true"),
        ("load(folder, trust_remote_code=True)", "trust_remote_code may be true"),
        ("from transformers import AutoModel\nAutoModel.from_pretrained(p, use_safetensors=True)",
         "from_pretrained without trust_remote_code=False"),
        ("from transformers import AutoModelForCausalLM as M\n"
         "M.from_pretrained(p, trust_remote_code=False)",
         "from_pretrained without use_safetensors=True"),
        ("from concurrent.futures import ProcessPoolExecutor as P\nP(2)",
         "concurrent.futures.ProcessPoolExecutor"),
    ],
)  # fmt: skip
def test_a_breach_is_seen(source: str, breach: str) -> None:
    assert breach in breaches(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "from transformers import AutoTokenizer\n"
        "AutoTokenizer.from_pretrained(p, trust_remote_code=False)",
        "import tempfile\ntempfile.mkstemp()",
    ],
)
def test_honest_code_passes(source: str) -> None:
    assert breaches(source) == []
