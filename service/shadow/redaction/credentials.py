"""Secrets in a folded text: tokens by their form, passwords and codes by the words around them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from service.shadow.redaction.exclusions import Span

_TOKENS = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:"
    r"reflux_(?=[\w-]{0,64}[A-Z])[\w-]{20,}"
    r"|(?:sk|pk|rk)-(?=[\w-]{0,64}\d)[\w-]{16,}"
    r"|(?:sk|pk|rk)_(?:live|test)_\w{10,}"
    r"|(?:gh[opsru]|github_pat|glpat|hf|npm)[_-](?=[\w-]{0,64}\d)[\w-]{20,}"
    r"|(?:xox[abeoprs]|xapp)-[\w-]{10,}|hooks\.slack\.com/services/[\w/]+"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16,}"
    r"|AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"
    r"|SG\.[\w-]{16,64}\.[\w-]{16,}|whsec_\w{16,}|shp(?:at|ca|pa|ss)_[0-9a-f]{32,}|dop_v1_[0-9a-f]{64,}"
    r"|pypi-[\w-]{30,}|\d{8,10}(?::AA[\w-]{33,})+"
    r"|eyJ[\w-]{8,1000}\.[\w-]{8,}\.[\w-]*"
    r"|(?i:bearer)\s+[\w.~+/-]{16,}=*"
    r"|(?i:authorization:\s*basic)\s+[\w+/-]{8,}={0,2}"
    r")"
)
_USERINFO = re.compile(r"(?i)(?<![a-z0-9])[a-z][a-z0-9+.-]{1,20}://(?P<span>[^\s/?#@:<>]*:[^\s/?#<>]+)@")

_PASSWORD = r"pass ?words?|passwd|passphrase|passcode|pwd|pw|passwort|kennwort|mot de passe|contraseña|senha|wachtwoord"
_KEY = (
    r"(?:client[ _-]?)?secret(?:[ _-]?(?:access[ _-]?)?key)?|token"
    r"|(?:api|private|auth|account|master|encryption|(?:shared[ _-]?)?access)[ _-]?key"
)
_HINTS = (
    "pass",
    "pwd",
    "pw",
    "kennwort",
    "contrase",
    "senha",
    "wachtw",
    "secret",
    "token",
    "key",
    "pin",
    "otp",
    "cv",
    "code",
)
_ALONE = r"(?i)(?<![^\W\d_])"
_QUOTED = r"(?:\"[^\"\n<>]{1,100}\"|'[^'\n<>]{1,100}'|`[^`\n<>]{1,100}`)"
_WORD = r"(?!<)[^\s<]{4,64}"

_ASSIGNED = re.compile(
    rf"{_ALONE}(?:{_PASSWORD}|pass|{_KEY})[\"']?\s{{0,3}}(?:=>|[:=])\s{{0,3}}"
    rf"(?P<span>{_QUOTED}|[\"'`]?(?!<)[^\s\"'`<]{{4,}})"
)
_CODE = re.compile(
    rf"{_ALONE}(?:pin|otp|cvv2?|cvc2?|(?:pin|pass|security|verification|access|door|login|auth|2fa|"
    r"one-time|confirmation|unlock)[ -]?code)(?:\s(?:number|no\.?))?"
    r"(?:\s(?:is|was|ist|war|est|es|é|è))?\s?[:=#]?\s?(?P<span>\d{3}[ -]\d{3}|\d{3,8})(?![\w-]|[.,]\d)"
)
_BETWEEN = r"(?:(?:\s(?:for|of|on|at|für|zu|von|pour|para)|(?P<loose>))(?:\s\(?[\w.@'/-]{1,30}\)?){1,4}?)?"
_VERB = (
    r"(?:'s|\s(?:(?:has|have) been|was|is|are|ist|war|wurde|lautet|heißt|est|es|é|è)"
    r"(?:\s(?:now|still|currently|really|actually|just|jetzt))?(?:\s(?:set|reset|changed)\s(?:to|from|auf|von))?"
    r"|\s(?:set|reset|changed)\s(?:to|from)|(?P<weak>\s(?:to|as|auf|->?)))\s?:?"
)
_STATED = re.compile(
    rf"{_ALONE}(?:{_PASSWORD}|(?P<pass>pass)|{_KEY}){_BETWEEN}{_VERB}\s(?:(?P<quoted>{_QUOTED})|(?P<word>{_WORD}))"
)
_BESIDE = re.compile(rf"{_ALONE}(?:{_PASSWORD})\s(?P<word>{_WORD})")
_ALSO = re.compile(rf"[.,;]?\s(?:to|and|or|und|oder|auf|et|y)\s(?P<word>{_WORD})")

_CLAUSE_END = re.compile(r"[.,;:!?)]*(?:\s*$|\s*\n|[.,;!?)]|\s(?:and|but|or|for|please|und|aber|et|y)\b)")
_TRAILING = ".,;:!?)]}\"'`"
_IS_SIZE = re.compile(r"\d+-[A-Za-z]+|\d{1,2}-\d{1,2}")  # such as `128-bit` or `8-16`
_ORDINARY = re.compile(
    r"(?:\w+(?:ed|ing|ly|able|ible|ful|less|ous|ory)|wrong|incorrect|correct|right|invalid|valid|okay|fine|good|better|"
    r"best|secure|safe|strong|stronger|weak|weaker|short|shorter|long|longer|blank|empty|null|none|unknown|known|"
    r"different|same|public|private|secret|stale|lost|sent|gone|case|sensitive|mandatory|optional|present|"
    r"absent|missing|unique|simple|complex|easy|hard|hidden|visible|broken|stolen|forgotten|written|given|shown|"
    r"there|here|mine|yours|theirs|ours|this|that|these|those|what|which|when|where|never|always|again|once|only|also|"
    r"just|even|very|quite|really|often|rather|about|over|under|with|from|your|their|some|both|each|every|"
    r"old|new|fresh|current|random|temporary|default|too|not|off|out|due|down|special|reset|jwt|bearer)"
)
_DESCRIBED = re.compile(
    rf"\(?{_ORDINARY.pattern}(?:/{_ORDINARY.pattern})+|\([a-z]+"
    r"|case-\w+|\w+-(?:sensitive|encoded|encrypted|protected|based)"
)


def mentions_secret(text: str) -> bool:
    """Return whether `find_stated` may find something: a cheap check that rules out most texts."""
    lowered = text.lower()
    return any(hint in lowered for hint in _HINTS)


def find_tokens(text: str) -> Iterator[Span]:
    """Yield the spans of keys and tokens in a vendor's format."""
    return (match.span() for match in _TOKENS.finditer(text))


def find_userinfo(text: str) -> Iterator[Span]:
    """Yield the spans of a user's name and password within URLs."""
    return (match.span("span") for match in _USERINFO.finditer(text))


def find_assigned(text: str) -> Iterator[Span]:
    """Yield the spans of passwords and keys that follow a colon or an equals sign."""
    return (match.span("span") for match in _ASSIGNED.finditer(text))


def find_stated(text: str) -> Iterator[Span]:
    """Yield the spans of passwords, keys and codes that a sentence states: `my password is …`, `PIN 1234`."""
    found = [match.span("span") for match in _CODE.finditer(text)]
    for match in _overlapping(_STATED, text):
        if match["quoted"] is not None:
            if not (match["pass"] or match["loose"] is not None) or _is_mixed(match["quoted"]):
                found.append(match.span("quoted"))
            continue
        start, stop = _word(match)
        strict = any(match[group] is not None for group in ("weak", "loose", "pass"))
        if _is_mixed(text[start:stop]) if strict else _is_stated(text, start, stop):
            found.append((start, stop))
    for match in _overlapping(_BESIDE, text):
        start, stop = _word(match)
        if stop - start >= 6 and _is_mixed(text[start:stop]):
            found.append((start, stop))
    end = 0
    for start, stop in sorted(found):
        if start < end:
            continue
        yield start, stop
        end = stop
        while (also := _ALSO.match(text, end)) and _is_mixed(text[slice(*_word(also))]):
            yield _word(also)
            end = _word(also)[1]


def _overlapping(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield every match, including one that begins within another: the other may be rejected later."""
    position = 0
    while match := pattern.search(text, position):
        yield match
        position = match.start() + 1


def _word(match: re.Match[str]) -> Span:
    """Return the span of the group `word`, without the punctuation that ends its sentence."""
    return match.start("word"), match.start("word") + len(match["word"].rstrip(_TRAILING))


def _is_stated(text: str, start: int, stop: int) -> bool:
    """Return whether a word after `password is` is the password itself, not a description of it."""
    word = text[start:stop]
    if len(word) < 4 or _IS_SIZE.fullmatch(word) or _DESCRIBED.fullmatch(word.lower()):
        return False
    if re.search(r"\d|[^\w'/-]|[a-z][A-Z]", word):
        return True
    return _CLAUSE_END.match(text, stop) is not None and _ORDINARY.fullmatch(word.lower()) is None


def _is_mixed(word: str) -> bool:
    """Return whether a word mixes digits and letters, as passwords do; addresses and sizes do not count."""
    if "://" in word or "@" in word or _IS_SIZE.fullmatch(word):
        return False
    return re.search(r"\d", word) is not None and re.search(r"[^\W\d_]", word) is not None
