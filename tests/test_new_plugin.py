"""``crewbus new-plugin``: what it writes works as it is, whatever was asked for; what can't be is refused whole."""

from __future__ import annotations

import ast
import inspect
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_helpers import Cli

import crewbus
import crewbus.cli
from crewbus import hookspecs
from crewbus.cli.commands import new_plugin
from crewbus.cli.scaffold import distribution as scaffold
from crewbus.cli.scaffold import new_folder, options, origin

LONG = 240.0
"""Seconds that a process of its own may take; it takes a few."""
ROOT = Path(crewbus.__file__).parents[1]
"""Where this crewbus is imported from."""
SOURCE = Path(__file__).parents[1]
"""The checkout."""
TEMPLATES = Path(crewbus.cli.__file__).with_name("scaffold") / "templates"
HOOKS = {name: function for name, function in vars(hookspecs).items() if hasattr(function, "crewbus_spec")}
KINDS = [name.removeprefix("crewbus_") for name in HOOKS]
LONGEST = "abcdefghij-klmnopqrst-uvwxyz"


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    """The command, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with crewbus.Bus(entry_points=False) as bus:
        command = Cli(tmp_path, capsys)
        command.use(bus)
        yield command


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a directory, by its path there."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def generate(folder: Path, name: str, *hooks: str) -> Path:
    """Write a distribution, and return its directory."""
    distribution = scaffold.Distribution(name, hooks, "Ada Lovelace", name)
    new_folder.write_folder(folder / distribution.project, distribution.files())
    return folder / distribution.project


def run(*arguments: str, cwd: Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """Python in ``cwd``, with this crewbus and ``path`` importable."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "CREWBUS", "COV", "PYTHONSAFEPATH"))
    }
    importable = os.pathsep.join(map(str, [*path, ROOT]))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": importable, "MYPYPATH": importable, "CREWBUS_RECORD": "off"},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


def run_pytest(*arguments: str, cwd: Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    return run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, cwd=cwd, path=path)


# What is written


def test_it_writes_a_distribution_and_shows_the_next_steps(cli, monkeypatch):
    monkeypatch.setattr(new_plugin, "installed_from", lambda: None)
    assert cli("new-plugin", "acme") == 0
    written = {path for path, data in contents(cli.folder).items() if data is not None}
    assert written == {
        f"crewbus-acme/{path}"
        for path in (
            ".github/dependabot.yml",
            ".github/workflows/test.yml",
            ".gitignore",
            "CHANGELOG.md",
            "LICENSE",
            "README.md",
            "crewbus_acme/__init__.py",
            "crewbus_acme/_plugin.py",
            "crewbus_acme/py.typed",
            "pyproject.toml",
            "setup.cfg",
            "tests/test_docs.py",
            "tests/test_installed.py",
            "tests/test_plugin.py",
            "tox.ini",
        )
    }
    assert set(cli.out.splitlines()) == {str(Path(path)) for path in written}
    assert [line.split("#")[0].strip() for line in cli.err.splitlines()[-3:]] == [
        "cd crewbus-acme",
        "python -m pip install -e . --group test tox",
        "tox",
    ]


@pytest.mark.parametrize(
    ("noted", "source"),
    [
        (None, None),
        ({"url": "file:///", "dir_info": {"editable": True}}, "/"),
        ({"url": "file:///no/such/crewbus.whl", "archive_info": {}}, None),
        ({"url": "https://example.org/crewbus.whl", "archive_info": {}}, "https://example.org/crewbus.whl"),
        (
            {"url": "https://example.org/crewbus", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}},
            "git+https://example.org/crewbus@0a1b",
        ),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="the paths are those of POSIX")
def test_the_next_steps_name_where_a_crewbus_that_is_on_no_index_came_from(cli, monkeypatch, noted, source):
    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return None if noted is None else json.dumps(noted)

    monkeypatch.setattr(origin, "distribution", lambda name: Installed())
    assert cli("new-plugin", "acme") == 0
    (command,) = [line.split("#")[0].strip() for line in cli.err.splitlines() if line.strip().endswith("style, types")]
    assert command == ("tox" if source is None else f"CREWBUS_SOURCE={source} tox")
    assert ("Without CREWBUS_SOURCE" in cli.err) == (source is not None)
    assert "deps = {env:CREWBUS_SOURCE:crewbus}\n" in (cli.folder / "crewbus-acme" / "tox.ini").read_text("utf-8")


def test_directory_is_the_parent_directory(cli):
    (cli.folder / "plugins").mkdir()
    assert cli("new-plugin", "acme", "--directory", "plugins") == 0
    assert [path.name for path in cli.folder.iterdir()] == ["plugins"]
    assert (cli.folder / "plugins" / "crewbus-acme" / "setup.cfg").exists()


def test_files_have_the_usual_permissions(cli):
    (cli.folder / "other").mkdir()
    (cli.folder / "other" / "file").touch()
    assert cli("new-plugin", "acme") == 0
    for made, other in (("crewbus-acme", "other"), ("crewbus-acme/setup.cfg", "other/file")):
        assert (cli.folder / made).stat().st_mode == (cli.folder / other).stat().st_mode


def test_author_is_in_the_metadata_and_the_licence(cli, monkeypatch):
    assert cli("new-plugin", "acme", "--author", "Ada Lovelace") == 0
    assert "author = Ada Lovelace\n" in (cli.folder / "crewbus-acme" / "setup.cfg").read_text("utf-8")
    assert re.search(
        r"^Copyright \(c\) \d{4} Ada Lovelace$", (cli.folder / "crewbus-acme" / "LICENSE").read_text(), re.MULTILINE
    )
    assert cli("new-plugin", "other", "--author", "Ada\nversion = 2") == 2
    assert "on one line" in cli.err


def test_the_default_author_is_gits_user_or_else_the_login_name(cli, monkeypatch):
    config = cli.folder / "config"
    config.write_text("[user]\n\tname = Grace Hopper\n", "utf-8")
    monkeypatch.setenv("LOGNAME", "hopper")
    assert options.default_author() == "hopper"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert options.default_author() in ("Grace Hopper", "hopper")  # where there is no git
    monkeypatch.setenv("PATH", "")
    assert options.default_author() == "hopper"


def test_files_agree_on_python_versions_and_the_version_line(tmp_path):
    """The Pythons in setup.cfg, tox.ini and the workflow; the line with the version, which the workflow looks for."""
    folder = generate(tmp_path, "acme", "emit")
    classified, ours = (re.findall(r"Python :: (3\.\d+)", (at / "setup.cfg").read_text()) for at in (folder, SOURCE))
    assert classified == ours
    assert re.findall(r"^    py3(\d+)$", (folder / "tox.ini").read_text(), re.MULTILINE) == [v[2:] for v in classified]
    workflow = (folder / ".github/workflows/test.yml").read_text()
    assert re.findall(r'python: "(3\.\d+)", environment: py', workflow) == classified
    assert 'grep -qxF "version = ${GITHUB_REF_NAME#v}" setup.cfg' in workflow
    assert "version = 0.1.0" in (folder / "setup.cfg").read_text().splitlines()
    assert "${{ matrix.python }}" in workflow
    assert "$name" not in workflow


# Names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("acme", "acme"),
        ("Slow_Alarm", "slow-alarm"),
        ("slow.-_alarm", "slow-alarm"),
        ("crewbus-acme", "acme"),
        ("crewbus_acme", "acme"),
        ("s3", "s3"),
        (LONGEST, LONGEST),
    ],
)
def test_a_name_is_normalised_as_that_of_a_package(given, name):
    assert options.plugin_name(given) == name


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "is not a valid plugin name"),
        ("crewbus", "is not a valid plugin name"),
        ("crewbus-", "is not a valid plugin name"),
        ("3d", "starting with a letter"),
        ("-acme", "is not a valid plugin name"),
        ("acme_", "is not a valid plugin name"),
        ("ac me", "such as 'slow-alarm'"),
        ("a/b", "such as 'slow-alarm'"),
        ("überwachung", "ASCII"),
        (f"{LONGEST}3", "at most 28 characters"),
        ("sqlite", "crewbus-sqlite exists"),
        ("crewbus_metrics", "crewbus-metrics exists"),
        ("run-scope", "built-in plugin"),
        ("memory_store", "'my-memory-store'"),
    ],
)
def test_an_invalid_name_is_rejected_and_nothing_is_written(cli, given, why):
    assert cli("new-plugin", "--", given) == 2
    assert why in cli.err
    assert contents(cli.folder) == {}


def test_the_plugins_that_are_published_here_are_known():
    published = (SOURCE / "plugins").glob("crewbus-*")
    assert {path.name.removeprefix("crewbus-") for path in published} == options.PUBLISHED
    with crewbus.Bus(entry_points=False) as bus:
        assert {info.name for info in bus.plugins.infos()} == options.BUILT_IN


def test_a_command_cannot_have_the_name_of_a_built_in_one(cli):
    assert cli("new-plugin", "runs", "--hooks", "cli_commands") == 2
    assert "has a command 'runs'" in cli.err
    assert contents(cli.folder) == {}
    assert cli("new-plugin", "runs") == 0


def test_a_built_in_scheme_is_rejected_for_a_store_only(cli):
    assert cli("new-plugin", "memory", "--hooks", "open_store") == 2
    assert "memory: URLs already open" in cli.err
    assert cli("new-plugin", "memory") == 0


def test_no_setting_has_the_name_of_a_variable_of_crewbus():
    ours = re.findall(r"`CREWBUS_(\w+)`", (SOURCE / "docs" / "reference" / "environment.md").read_text("utf-8"))
    assert {"BLOCK", "STORE"} <= set(ours)
    for name in map(str.lower, ours):
        files = scaffold.Distribution(name, ("configure",), "Ada Lovelace", "acme").files()
        assert f'"CREWBUS_{name.upper()}"' not in files[f"crewbus_{name}/_plugin.py"]


def test_a_plugin_with_a_store_requires_posix(tmp_path):
    for hook, system in (("open_store", "POSIX"), ("emit", "OS Independent")):
        metadata = (generate(tmp_path, hook.replace("_", "-"), hook) / "setup.cfg").read_text("utf-8")
        assert re.findall(r"Operating System :: (.*)", metadata) == [system]


# Hooks


def test_the_hooks_that_are_named_are_implemented(cli):
    assert cli("new-plugin", "acme", "--hooks", "record, crewbus_emit,plugin-error") == 0
    source = (cli.folder / "crewbus-acme/crewbus_acme/_plugin.py").read_text("utf-8")
    assert re.findall(r"def (crewbus_\w+)", source) == ["crewbus_emit", "crewbus_record", "crewbus_plugin_error"]


@pytest.mark.parametrize(
    ("options", "hooks"),
    [
        ([], {"emit"}),
        (["--hooks", "all"], set(KINDS)),
        (["--hooks", "all,emit"], set(KINDS)),
        (["--hooks", "emit", "--hooks", "close"], {"emit", "close"}),
        (["--store", "acme"], {"open_store"}),
        (["--store", "acme", "--hooks", "close"], {"open_store", "close"}),
        (["--hooks", "open_store"], {"open_store"}),
    ],
)
def test_which_hooks_the_options_select(cli, options, hooks):
    assert cli("new-plugin", "acme", *options) == 0
    folder = cli.folder / "crewbus-acme"
    source = (folder / "crewbus_acme/_plugin.py").read_text("utf-8")
    assert set(re.findall(r"def crewbus_(\w+)", source)) == hooks
    assert (folder / "tests/test_store.py").exists() == ("open_store" in hooks)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--hooks", "emit,recrod"], "no hook 'recrod': did you mean record?"),
        (["--hooks", "emmit,recrod"], "'emmit': did you mean emit?; there is no hook 'recrod'"),
        (["--hooks", "xyzzy"], f"choose from {', '.join(KINDS)}"),
        (["--hooks", ","], "--hooks is empty"),
        (["--store", "my store"], "not a valid URL scheme"),
        (["--store", "memory"], "memory: URLs already open"),
        (["--store", "sqlite:"], "sqlite: URLs already open"),
        (["--directory", "nowhere"], "there is no directory nowhere"),
    ],
)
def test_invalid_options_are_rejected_and_nothing_is_written(cli, options, why):
    assert cli("new-plugin", "acme", *options) == 2
    assert why in cli.err
    assert contents(cli.folder) == {}


# What is in the way


def test_existing_files_are_listed_and_not_changed(cli):
    folder = cli.folder / "crewbus-acme"
    (folder / "tests").mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    (folder / "notes.txt").write_text("mine too")
    before = contents(cli.folder)
    assert cli("new-plugin", "acme") == 2
    assert "crewbus-acme holds README.md, notes.txt, tests/ already" in cli.err
    assert contents(cli.folder) == before


@pytest.mark.parametrize(
    ("make", "what"), [(Path.touch, "is a file"), (lambda path: path.symlink_to("nowhere"), "is a link")]
)
def test_an_existing_file_or_link_is_kept(cli, make: Callable[[Path], None], what):
    make(cli.folder / "crewbus-acme")
    assert cli("new-plugin", "acme") == 2
    assert f"crewbus-acme {what} already" in cli.err
    assert [path.name for path in cli.folder.iterdir()] == ["crewbus-acme"]


def test_an_empty_directory_is_used(cli):
    (cli.folder / "crewbus-acme").mkdir()
    assert cli("new-plugin", "acme") == 0
    assert (cli.folder / "crewbus-acme" / "setup.cfg").exists()
    assert len(list(cli.folder.iterdir())) == 1


class Full:
    """Writes so many files; then the disk is full, or somebody loses patience."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int, error: BaseException) -> None:
        self.left, self.error, self.write = left, error, Path.write_text
        monkeypatch.setattr(Path, "write_text", lambda *args, **kwargs: self(*args, **kwargs))

    def __call__(self, path: Path, *args: str, **kwargs: str) -> int:
        if not self.left:
            raise self.error
        self.left -= 1
        return self.write(path, *args, **kwargs)


@pytest.mark.parametrize("left", [0, 5])
def test_a_failed_write_leaves_nothing(cli, monkeypatch, left):
    Full(monkeypatch, left, OSError(28, "No space left on device"))
    assert cli("new-plugin", "acme") == 2
    assert "nothing of it was" in cli.err
    assert "No space left on device" in cli.err
    assert contents(cli.folder) == {}


def test_an_interrupted_write_leaves_nothing(cli, monkeypatch):
    Full(monkeypatch, 5, KeyboardInterrupt())
    assert cli("new-plugin", "acme") == 130
    assert contents(cli.folder) == {}


def test_files_that_another_process_writes_meanwhile_are_kept(cli, monkeypatch):
    """It is looked at before anything is written; somebody else is quicker."""
    monkeypatch.setattr(new_folder, "_occupied_by", lambda folder: "")
    (cli.folder / "crewbus-acme").mkdir()
    (cli.folder / "crewbus-acme" / "README.md").write_text("theirs")
    before = contents(cli.folder)
    assert cli("new-plugin", "acme") == 2
    assert contents(cli.folder) == before


# The templates


def test_every_template_is_used():
    used = {f"{name}.tmpl" for name in (scaffold.FILES | scaffold.STORE_FILES).values()}
    assert {entry.name for entry in (TEMPLATES / "project").iterdir()} == used


def test_every_hook_has_a_template_and_every_template_a_hook():
    assert sorted(entry.name for entry in (TEMPLATES / "hooks").iterdir()) == sorted(f"{kind}.tmpl" for kind in KINDS)
    assert list(options.KINDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_has_the_signature_of_its_hook(tmp_path, kind):
    source = (generate(tmp_path, "acme", kind) / "crewbus_acme" / "_plugin.py").read_text("utf-8")
    (function,) = [node for node in ast.walk(ast.parse(source)) if getattr(node, "name", "") == f"crewbus_{kind}"]
    assert isinstance(function, ast.FunctionDef)
    spec = inspect.signature(HOOKS[function.name])
    asked = {argument.arg: ast.unparse(argument.annotation) for argument in function.args.args[1:]}
    assert list(asked) == list(spec.parameters)
    for name, parameter in spec.parameters.items():
        assert parameter.annotation in ("Any", asked[name].replace("crewbus.", ""))
    assert ast.unparse(function.returns).replace("crewbus.", "") == spec.return_annotation


def test_the_help_names_every_hook(cli):
    assert cli("new-plugin", "--help") == 0
    named = re.search(r"^hooks .*:\n(.*?)\n\n", cli.out, re.DOTALL | re.MULTILINE)
    assert re.findall(r"\w+", named.group(1)) == KINDS


# What is written works


def in_one_process(projects: list[Path], *what: str) -> subprocess.CompletedProcess[str]:
    """The tests of several projects, in one process."""
    folder = projects[0].parent
    options = ["--rootdir", str(folder), "-c", str(projects[0] / "pyproject.toml")]
    tests = [f"{project}/tests/test_{name}.py" for project in projects for name in what]
    return run_pytest(*options, *tests, cwd=folder, path=projects)


ALONE = {kind.replace("_", "-"): (kind,) for kind in KINDS}
"""Plugins by name, with the one hook that each implements."""
COLLECTED = {"testrail": ("emit", "open_store", "close")}
"""One whose classes pytest would take for tests, by the way that they are called."""
SUBSETS = {f"some-{seed}": random.Random(seed).sample(KINDS, 2 + seed) for seed in range(8)}
"""Likewise, with a few hooks each."""


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A plugin for each hook, and for several subsets of them."""
    folder = tmp_path_factory.mktemp("several")
    plugins = {**ALONE, **COLLECTED, **SUBSETS}.items()
    return [generate(folder, name, *[kind for kind in KINDS if kind in hooks]) for name, hooks in plugins]


@pytest.mark.parametrize("hooks", [["emit"], pytest.param(KINDS, marks=pytest.mark.heavy)], ids=["default", "all"])
def test_its_own_tests_pass(tmp_path, hooks):
    """Those of the entry point too, with the metadata beside the package, as an installation has them.

    The 100,000 events of a store's contract are written where a published plugin is tried.
    """
    project = generate(tmp_path, "acme", *hooks)
    made = run("-c", "import setuptools; setuptools.setup()", "-q", "egg_info", cwd=project, path=[])
    assert made.returncode == 0, made.stderr
    done = run_pytest("-k", "not many_events", cwd=project, path=[project])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_that_is_added_later_is_in_the_wheel_too(tmp_path):
    project = generate(tmp_path, "acme", "emit")
    (project / "crewbus_acme" / "later").mkdir()
    (project / "crewbus_acme" / "later" / "__init__.py").touch()
    built = run("-c", "import setuptools; setuptools.setup()", "-q", "build_py", "-d", "out", cwd=project, path=[])
    assert built.returncode == 0, built.stderr
    files = {str(path.relative_to(project / "out")) for path in (project / "out").rglob("*.*")}
    names = ("__init__.py", "_plugin.py", "py.typed", "later/__init__.py")
    assert files == {str(Path("crewbus_acme", name)) for name in names}


def test_its_own_tests_pass_with_any_hooks(several):
    done = in_one_process(several, "plugin", "docs")
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_own_tests_fail_without_the_hook(tmp_path):
    """So what a hookimpl does is shown by a test."""
    projects = [generate(tmp_path, name, *hooks) for name, hooks in ALONE.items()]
    for project in projects:
        (source,) = project.glob("*/_plugin.py")
        implemented = re.compile(r"@crewbus\.hookimpl.*\n    def (?=crewbus_)")
        source.write_text(implemented.sub("def _", source.read_text("utf-8")), "utf-8")
    done = in_one_process(projects, "plugin")
    failed = re.findall(r"^FAILED crewbus-([a-z-]+)/tests", done.stdout, re.MULTILINE)
    assert set(failed) == set(ALONE), done.stdout


@pytest.mark.skipif(find_spec("ruff") is None, reason="needs ruff")
def test_style_and_formatting_are_clean(several, tmp_path):
    """Also where a name is as short or as long as it may be."""
    folders = [*several, *(generate(tmp_path, name, *KINDS) for name in ("x", LONGEST, f"test{LONGEST[4:]}"))]
    for arguments in (["check"], ["format", "--check"]):
        done = run("-m", "ruff", *arguments, "--no-cache", *map(str, folders), cwd=tmp_path, path=[])
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(find_spec("mypy") is None, reason="needs mypy")
def test_types_are_clean(several, tmp_path):
    folders = [*several, generate(tmp_path, "everything", *KINDS)]
    packages = [str(path) for folder in folders for path in folder.glob("crewbus_*")]
    options = ["--config-file", str(folders[0] / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    done = run("-m", "mypy", *options, *packages, cwd=tmp_path, path=[])
    assert done.returncode == 0, done.stdout + done.stderr
