"""The tokens file: what it may say, how a wrong one is named, and who a request's headers say is calling."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from vectorpool.api.callers import MAX_FILE_BYTES, Callers, read_callers
from vectorpool.cli.tokens import toml_table
from vectorpool.errors import Forbidden, Misconfigured, Unauthenticated
from vectorpool.identity.caller import ANY_CALLER

SECRET = "alices-secret"
SHA256 = hashlib.sha256(SECRET.encode()).hexdigest()


def callers_of(tmp_path: Path, text: str) -> Callers:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    return read_callers(str(file))


def test_without_a_file_nobody_is_asked() -> None:
    """No file, or an empty name of one, leaves one caller who may do everything."""
    for nothing in (None, ""):
        callers = read_callers(nothing)
        assert callers.count is None
        assert callers.identify([]) is ANY_CALLER
    assert ANY_CALLER.may_touch("whoever") and ANY_CALLER.is_admin


def test_a_table_says_what_its_token_allows(tmp_path: Path) -> None:
    """Users are those listed, verbatim; "*" is everybody; admin is false unless it is said."""
    others = [hashlib.sha256(token).hexdigest() for token in (b"b", b"o")]
    callers = callers_of(
        tmp_path,
        f'[tokens.alice]\nsha256 = "{SHA256.upper()}"\nusers = ["42", "a@b.c"]\n'
        f'[tokens.backend]\nsha256 = "{others[0]}"\nusers = "*"\n'
        f'[tokens.operator]\nsha256 = "{others[1]}"\nadmin = true\n',
    )
    assert callers.count == 3
    alice = callers.identify([(b"authorization", b"Bearer " + SECRET.encode())])
    assert (alice.name, alice.users, alice.is_admin) == ("alice", {"42", "a@b.c"}, False)
    assert [alice.may_touch(user) for user in ("42", "a@b.c", "A@b.c", "4", "*", "")] == [True, True] + [False] * 4
    backend = callers.identify([(b"x-chroma-token", b"b")])
    assert backend.may_touch("whoever") and not backend.is_admin
    operator = callers.identify([(b"x-chroma-token", b"o")])
    assert operator.is_admin and not operator.may_touch("42")
    assert alice.check("42") == "42"
    with pytest.raises(Forbidden):
        alice.check("43")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer alices-secret")],
        [(b"authorization", b"bearer   alices-secret ")],
        [(b"x-chroma-token", b"alices-secret")],
        [(b"x-chroma-token", b" alices-secret ")],
        [(b"authorization", b"Basic cHJveHk6cHJveHk="), (b"x-chroma-token", b"alices-secret")],
        [(b"authorization", b"Bearer alices-secret"), (b"x-chroma-token", b"alices-secret")],
    ],
)
def test_both_headers_carry_a_token(tmp_path: Path, headers: list[tuple[bytes, bytes]]) -> None:
    """Bearer and X-Chroma-Token are the same, also together, and beside the credentials of a proxy."""
    callers = callers_of(tmp_path, f'[tokens.alice]\nsha256 = "{SHA256}"\nusers = ["42"]\n')
    assert callers.identify(headers).name == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"alices-secret")],
        [(b"authorization", b"Basic alices-secret")],
        [(b"authorization", b"Bearer alices-secre")],
        [(b"authorization", b"Bearer ALICES-SECRET")],
        [(b"authorization", b"Bearer " + SHA256.encode())],
        [(b"authorization", b"Bearer " + bytes.fromhex(SHA256))],
        [(b"authorization", b"Bearer alices-secret, Bearer other")],
        [(b"x-chroma-token", b"")],
        [(b"x-chroma-token", b"Bearer alices-secret")],
        [(b"x-chroma-token", b"alices-secret"), (b"x-chroma-token", b"other")],
        [(b"authorization", b"Bearer other"), (b"x-chroma-token", b"alices-secret")],
        [(b"cookie", b"token=alices-secret")],
        [(b"x-chroma-token", b"\xff" * 60_000)],
    ],
)
def test_what_is_no_known_token_is_refused(tmp_path: Path, headers: list[tuple[bytes, bytes]]) -> None:
    """Nothing, something else, the digest itself and two different tokens are refused, and never repeated."""
    callers = callers_of(tmp_path, f'[tokens.alice]\nsha256 = "{SHA256}"\nusers = ["42"]\n')
    with pytest.raises(Unauthenticated) as caught:
        callers.identify(headers)
    said = caught.value.detail.lower()
    assert said.endswith(".")
    assert "secret" not in said and "other" not in said and SHA256 not in said


GOOD = f'sha256 = "{SHA256}"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no token"),
        ("[tokens]\n", "names no token"),
        ("tokens = 3\n", "names no token"),
        ("[tokens.alice\n", "not valid TOML"),
        (f"[alice]\n{GOOD}", "'alice'"),
        ('[tokens.alice]\nusers = ["42"]\n', "missing required field `sha256`"),
        (f"[tokens.alice]\n{GOOD}", "allows nothing"),
        (f"[tokens.alice]\n{GOOD}users = []\n", "allows nothing"),
        (f"[tokens.alice]\n{GOOD}users = [42]\n", "users"),
        (f'[tokens.alice]\n{GOOD}users = "42"\n', "alice"),
        (f'[tokens.alice]\n{GOOD}users = ["42", "*"]\n', 'users = "*"'),
        (f'[tokens.alice]\n{GOOD}users = ["a/b"]\n', "slash"),
        (f'[tokens.alice]\n{GOOD}users = [""]\n', "empty"),
        (f'[tokens.alice]\n{GOOD}users = ["42"]\nadmn = true\n', "admn"),
        (f'[tokens.alice]\n{GOOD}users = ["42"]\nadmin = "no"\n', "admin"),
        (f'[tokens."a b"]\n{GOOD}users = ["42"]\n', "'a b'"),
        (f"[tokens]\nalice = '{SECRET}'\n", "alice"),
        (f'[tokens.alice]\nsha256 = "{SECRET}"\nusers = ["42"]\n', "64 hex digits"),
        (f'[tokens.alice]\ntoken = "{SECRET}"\nusers = ["42"]\n', "token"),
        (f'[tokens.alice]\nsha256 = "{hashlib.sha256(b"").hexdigest()}"\nusers = ["42"]\n', "empty text"),
        (f'[tokens.a]\n{GOOD}users = ["1"]\n[tokens.b]\n{GOOD}users = ["2"]\n', "a and b"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    """What cannot be meant is refused with the file's name and what is wrong, without repeating a secret."""
    with pytest.raises(Misconfigured) as caught:
        callers_of(tmp_path, text)
    detail = caught.value.detail
    assert said in detail
    assert SECRET not in detail and SHA256 not in detail
    assert "tokens.toml" in detail or "cannot name a token" in detail
    assert detail.endswith(".") and "\n" not in detail


def test_an_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    """A file that is missing, is a directory, is not text or is huge is named."""
    binary, huge = tmp_path / "binary.toml", tmp_path / "huge.toml"
    binary.write_bytes(b"\xff\xfe")
    huge.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    for path, said in [(tmp_path / "no.toml", "cannot"), (tmp_path, "cannot"), (binary, "UTF-8"), (huge, "larger")]:
        with pytest.raises(Misconfigured) as caught:
            read_callers(str(path))
        assert said in caught.value.detail and str(path) in caught.value.detail


@pytest.mark.parametrize("user", ["42", 'a"b', "ü", "日本", "😀", "a'b", "#x", "a]b"])
def test_what_the_command_line_prints_is_read_back(tmp_path: Path, user: str) -> None:
    """The printed table lets its token in, as the user that was named, whatever characters the id has."""
    table = toml_table("alice", SECRET, (user, "7"), everybody=False, is_admin=True)
    assert SECRET not in table
    caller = callers_of(tmp_path, table).identify([(b"x-chroma-token", SECRET.encode())])
    assert (caller.name, caller.users, caller.is_admin) == ("alice", {user, "7"}, True)
    everybody = callers_of(tmp_path, toml_table("all", SECRET, (), everybody=True, is_admin=False))
    assert everybody.identify([(b"x-chroma-token", SECRET.encode())]).users is None
