"""`reflux push` and `reflux pull`, as scripts and init containers call them."""

import os
import subprocess
import sys

import pytest

from export.delivery.image import Image
from reflux import cli
from tests.support.tiny_bundle import build_cascade


def reflux(*arguments, monkeypatch, capsys):
    """Run the command in this process; returns what it wrote to standard output and to standard error."""
    monkeypatch.setattr("sys.argv", ["reflux", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_the_digest_is_alone_on_standard_output(tiny_bundle, tmp_path, monkeypatch, capsys):
    digest, version = Image.of(tiny_bundle).digest, tiny_bundle.manifest.version

    def run(*arguments):
        return reflux(*arguments, monkeypatch=monkeypatch, capsys=capsys)

    code, out, _ = run("keys", "pair", tmp_path / "key")
    assert (code, "--verify-key" in out) == (0, True)
    shelf, bundle = tmp_path / "shelf", tmp_path / "bundle"
    pushed = run("push", tiny_bundle.path, shelf, "--sign-key", tmp_path / "key")
    assert pushed == (0, f"{digest}\n", f"{shelf}: tiny, version {version}, signed\n")
    options = ["--digest", digest, "--verify-key", tmp_path / "key.pub"]
    assert run("pull", shelf, bundle, *options) == (0, f"{digest}\n", f"{bundle}: tiny, version {version}\n")
    again = run("pull", shelf, bundle, "--digest", digest)
    assert again == (0, f"{digest}\n", f"{bundle}: tiny, version {version}, was there already\n")


def test_a_bundle_that_leaves_texts_to_its_teacher_says_what_serving_it_needs(
    tiny_bundle, tmp_path, monkeypatch, capsys
):
    deferring = build_cascade(tmp_path / "deferring", [tiny_bundle], [], defer=0.8)
    code, out, err = reflux("push", deferring.path, tmp_path / "shelf", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (0, f"{Image.of(deferring).digest}\n")
    assert "`reflux k8s init` needs --with deferring" in err


def test_what_fails_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    code, out, err = reflux("pull", tmp_path / "none", tmp_path / "bundle", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (1, "")
    assert err == f"error: {tmp_path / 'none'}: has no manifest.json; push a bundle there with `reflux push`\n"


def test_pulling_needs_no_more_than_serving(tiny_bundle, tmp_path):
    """An init container runs the serving image, which has neither torch nor a store's packages."""
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'fsspec', 's3fs', 'onnx', 'scipy'): sys.modules[name] = None\n"
        "from reflux.cli import main\n"
        f"sys.argv = ['reflux', 'pull', {str(tiny_bundle.path)!r}, {str(tmp_path / 'bundle')!r}]\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{Image.of(tiny_bundle).digest}\n"
