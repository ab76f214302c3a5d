"""`sign` and `verify --key`: exactly the signed files pass, with the key that they were signed with, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import ROOT
from test_cli import in_process, one_line

from mnist_edge import signature
from mnist_edge.errors import BadFileError

pytest.importorskip("model_signing", reason="the extra sign is not installed")


def openssl(*words: str | Path, cwd: Path) -> None:
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def signed(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle `mnist`, its signature, and the keys of two people. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("signed")
    shutil.copytree(bundle_folder, folder / "mnist")
    for owner in ("own", "other"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{owner}.pem", cwd=folder)
        openssl("pkey", "-in", f"{owner}.pem", "-pubout", "-out", f"{owner}.pub.pem", cwd=folder)
    done = in_process("sign", "mnist", "--key", "own.pem", "--json", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert done.json["signature"] == "mnist.sig"
    assert set(done.json["files"]) == {"golden.npz", "manifest.json", "model.onnx"}
    return folder


@pytest.fixture
def copied(signed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed, tmp_path / "copied")


def offline(*_: object) -> NoReturn:
    raise AssertionError("a connection was opened")


def test_a_signed_bundle_is_verified_offline(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under any name, with the signature anywhere; one JSON document, and no connection."""
    monkeypatch.setattr(socket.socket, "connect", offline)
    done = in_process("verify", "mnist", "--key", "own.pub.pem", "--json", cwd=copied)
    assert (done.code, done.json["passed"]) == (0, True), done.err
    assert "mnist.sig is a valid signature of mnist" in done.err
    (copied / "mnist").rename(copied / "renamed")
    (copied / "mnist.sig").rename(copied / "elsewhere")
    named = signature.check_signature(copied / "renamed", copied / "own.pub.pem", copied / "elsewhere")
    assert named == copied / "elsewhere"
    assert in_process("sign", "renamed", "--key", "own.pem", "--output", "again.sig", cwd=copied).code == 0
    assert signature.check_signature(copied / "renamed", copied / "own.pub.pem", copied / "again.sig")


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def with_payload(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Change the document of a signature, which is JSON."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / "mnist.sig").read_text())
        change(document)
        (folder / "mnist.sig").write_text(json.dumps(document))

    return apply


def sign_with_other_key(folder: Path) -> None:
    (folder / "mnist.sig").unlink()
    assert in_process("sign", "mnist", "--key", "other.pem", cwd=folder).code == 0


def replace_manifest(folder: Path) -> None:
    """A bundle of its own whose hashes all agree, as an attacker would make it."""
    from mnist_edge.bundle.choice import write_choice

    write_choice(folder / "mnist", "fp32", {})


def link(folder: Path) -> None:
    (folder / "mnist" / "model.onnx").rename(folder / "model.onnx")
    (folder / "mnist" / "model.onnx").symlink_to(folder / "model.onnx")  # the same bytes, until somebody writes there


def sparse(folder: Path) -> None:
    with (folder / "mnist" / "golden.npz").open("wb") as file:
        file.truncate(2**42)


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda f: edit(f / "mnist" / "model.onnx", lambda data: data[:-1] + b"\x01"), "mnist/model.onnx was changed"),
    "another bundle": (replace_manifest, "mnist/manifest.json was changed"),
    "missing": (lambda f: (f / "mnist" / "golden.npz").unlink(), "mnist/golden.npz is missing"),
    "extra": (lambda f: (f / "mnist" / "zzz").write_bytes(b"x"), "mnist/zzz was added"),
    "hidden": (lambda f: (f / "mnist" / ".gitattributes").write_bytes(b"x"), "mnist/.gitattributes was added"),
    "folder": (lambda f: (f / "mnist" / "sub").mkdir(), "mnist/sub is no regular file"),
    "link": (link, "mnist/model.onnx is no regular file"),
    "fifo": (lambda f: os.mkfifo(f / "mnist" / "pipe"), "mnist/pipe is no regular file"),
    "terabytes": (sparse, "larger than a bundle can be"),
    "other key": (sign_with_other_key, "not made with the private key of own.pub.pem"),
    "cut": (lambda f: edit(f / "mnist.sig", lambda data: data[: len(data) // 2]), "mnist.sig is not a signature"),
    "empty": (lambda f: (f / "mnist.sig").write_bytes(b""), "mnist.sig is not a signature"),
    "no text": (lambda f: (f / "mnist.sig").write_bytes(b"\xff\xfe" * 40), "mnist.sig is not a signature"),
    "other payload": (with_payload(lambda d: d["dsseEnvelope"].update(payload="e30=")), "not made with the private key"),
    "no signature": (with_payload(lambda d: d["dsseEnvelope"].update(signatures=[])), "mnist.sig is not a signature"),
    "no envelope": (with_payload(lambda d: d.pop("dsseEnvelope")), "mnist.sig is not a signature"),
    "large": (lambda f: (f / "mnist.sig").write_bytes(b" " * 2**21), "more than a signature can have"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bundle_that_differs_from_what_was_signed_is_a_bad_file(
    attack: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 with the name of the file, before the manifest or anything else of the bundle is read."""
    change, said = ATTACKS[attack]
    change(copied)
    monkeypatch.setattr(signature, "load_bundle", offline)
    done = in_process("verify", "mnist", "--key", "own.pub.pem", cwd=copied)
    assert (done.code, done.out) == (3, ""), done.err
    assert said in one_line(done.err)


def test_a_signature_cannot_leave_a_file_out(copied: Path) -> None:
    """Other programs sign with a list of paths that are not covered; a bundle is covered as a whole."""
    from model_signing import hashing, signing

    config = signing.Config()
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.onnx"], ignore_git_paths=False))
    config.use_elliptic_key_signer(private_key=copied / "own.pem").sign(copied / "mnist", copied / "mnist.sig")
    with pytest.raises(BadFileError, match=r"model.onnx was added: .* does not cover it"):
        signature.check_signature(copied / "mnist", copied / "own.pub.pem")


def check_with_openssl(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the lines of docs/devices.md, without Python, on `exported/small`."""
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (folder / "exported").mkdir()
    for name, moved in (
        ("mnist", "exported/small"),
        ("mnist.sig", "exported/small.sig"),
        ("own.pub.pem", "public.pem"),
    ):
        (folder / name).rename(folder / moved)
    scratch = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run(["sh", "-c", script], cwd=folder, env=scratch, capture_output=True, text=True, check=False)


def test_openssl_alone_can_check_a_signature(copied: Path) -> None:
    """The lines of the page are true: all of them run, and each file is named."""
    done = check_with_openssl(copied)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines() == ["Verified OK", "golden.npz: OK", "manifest.json: OK", "model.onnx: OK"]


@pytest.mark.parametrize("attack", sorted(set(ATTACKS) - {"terabytes"}))
def test_openssl_alone_refuses_what_verify_refuses(attack: str, copied: Path) -> None:
    """No attack passes the short way that fails the long one."""
    change, _ = ATTACKS[attack]
    change(copied)
    assert check_with_openssl(copied).returncode != 0


def test_a_missing_hash_of_the_key_is_no_way_in_and_prints_nothing(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library warns on standard output where a signature names no key, and goes on to check it."""
    with_payload(lambda d: d["verificationMaterial"]["publicKey"].update(hint=None))(copied)
    assert signature.check_signature(copied / "mnist", copied / "own.pub.pem") == copied / "mnist.sig"
    assert capsys.readouterr().out == ""
    with pytest.raises(BadFileError, match="not made with the private key"):
        signature.check_signature(copied / "mnist", copied / "other.pub.pem", copied / "mnist.sig")


def test_a_bundle_without_a_signature_is_an_error(copied: Path) -> None:
    """Never a warning; and a key without anything that could be signed is wrong usage."""
    (copied / "mnist.sig").unlink()
    for words, code, said in (
        (["mnist", "--key", "own.pub.pem"], 4, "mnist is not signed: mnist.sig does not exist"),
        (["mnist", "--key", "own.pub.pem", "--target", "c"], 4, "is not signed"),
        (["mnist", "--key", "own.pub.pem", "--on", "nobody@nowhere.invalid"], 4, "is not signed"),
        (["mnist", "--key", "own.pub.pem", "--outputs", "logits.npz"], 4, "is not signed"),
        (["mnist/model.onnx", "--key", "own.pub.pem"], 2, "--key checks the signature of a bundle"),
        (["mnist", "--signature", "mnist.sig"], 2, "--signature has no effect without --key"),
        (["nothing", "--key", "own.pub.pem"], 2, "nothing is none"),
    ):
        done = in_process("verify", *words, cwd=copied)
        assert (done.code, done.out) == (code, ""), done.err
        assert said in one_line(done.err)


def test_a_key_that_is_no_key_is_a_bad_file(copied: Path) -> None:
    """Each with what was expected; an unsigned bundle stays unsigned."""
    openssl("pkey", "-in", "own.pem", "-aes256", "-passout", "pass:x", "-out", "locked.pem", cwd=copied)
    openssl("genpkey", "-algorithm", "ed25519", "-out", "ed.pem", cwd=copied)
    openssl("ecparam", "-name", "secp256k1", "-genkey", "-noout", "-out", "k1.pem", cwd=copied)
    (copied / "text.pem").write_text("no key")
    os.mkfifo(copied / "fifo.pem")
    (copied / "mnist.sig").unlink()
    for name, code, said in (
        ("locked.pem", 3, "is an encrypted key"),
        ("ed.pem", 3, "not a key on the curve"),
        ("k1.pem", 3, "secp256k1"),
        ("text.pem", 3, "no private key in PEM"),
        ("own.pub.pem", 3, "no private key in PEM"),
        ("fifo.pem", 3, "FIFO"),
        ("no.pem", 4, "does not exist"),
    ):
        done = in_process("sign", "mnist", "--key", name, cwd=copied)
        assert (done.code, done.out) == (code, ""), done.err
        assert said in one_line(done.err)
    assert not (copied / "mnist.sig").exists()
    done = in_process("verify", "mnist", "--key", "own.pem", cwd=copied)
    assert (done.code, "no public key in PEM" in one_line(done.err)) == (3, True)


def test_what_is_signed_must_be_a_whole_bundle_and_the_key_is_not_replaced(copied: Path) -> None:
    """A signature states that the signer had an intact bundle."""
    before = (copied / "own.pem").read_bytes()
    for words, code, said in (
        (["mnist", "--output", "own.pem"], 2, "would replace the private key"),
        (["mnist", "--output", "mnist/x.sig"], 2, "mnist is a bundle"),
        (["mnist", "--output", "mnist/sub/x.sig"], 2, "mnist is a bundle"),
        (["mnist", "--output", "."], 4, "directory"),
        (["nothing"], 4, "no bundle"),
    ):
        done = in_process("sign", *words, "--key", "own.pem", cwd=copied)
        assert (done.code, done.out) == (code, ""), done.err
        assert said in one_line(done.err)
    assert (copied / "own.pem").read_bytes() == before
    edit(copied / "mnist" / "model.onnx", lambda data: data + b"\x00")
    done = in_process("sign", "mnist", "--key", "own.pem", cwd=copied)
    assert (done.code, "model.onnx was changed" in one_line(done.err)) == (3, True)


def test_without_the_extra_the_command_that_installs_it_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without model-signing cannot check, and says so: the bundle is not taken as verified."""

    def missing(*_: object) -> NoReturn:
        raise ModuleNotFoundError("No module named 'model_signing'", name="model_signing")

    monkeypatch.setattr(signature, "_hashing", missing)
    for words in (["sign", "mnist", "--key", "own.pem"], ["verify", "mnist", "--key", "own.pub.pem"]):
        done = in_process(*words, cwd=copied)
        assert (done.code, done.out) == (4, "")
        assert "model-signing" in one_line(done.err)
