"""The grammar of RFC 8259, token by token, over any number of pieces: where and how a text breaks it.

It is asked only when the fast decoder (`json_items`) could not read a value: because the text is wrong,
because the value is larger or deeper than may be, or because its end is not there yet. It keeps no value in
memory.
"""

import re

_BLANKS = re.compile(r"[ \t\n\r]*+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*+')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_BLANK = r"[ \t\n\r]*+"
_STRING = r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_PLAIN_VALUE = f"(?:{_STRING}|{_NUMBER.pattern}|true|false|null)"
# Many plain elements or fields at once, each with the comma after it: token by token a large item takes minutes.
_ELEMENTS = re.compile(f"(?:{_BLANK}{_PLAIN_VALUE}{_BLANK},)++")
_FIELDS = re.compile(f"(?:{_BLANK}{_STRING}{_BLANK}:{_BLANK}{_PLAIN_VALUE}{_BLANK},)++")
_NUMBER_CHARACTERS = re.compile(r"[-+.0-9A-Za-z]*+")
_WORD = re.compile(r"[A-Za-z0-9_]*+")
_ESCAPES = r"those are \" \\ \/ \b \f \n \r \t and \u with four hexadecimal digits"
_LITERALS = ("true", "false", "null")
_LONGEST_ESCAPE = 6
_LONGEST_WORD = 32

# What may come next.
_VALUE, _VALUE_OR_END, _KEY, _KEY_OR_END, _COLON, _COMMA_OR_END = range(6)
_EXPECTED = {
    _VALUE: "a value",
    _VALUE_OR_END: "a value or ]",
    _KEY: "a field name in double quotes",
    _KEY_OR_END: "a field name in double quotes or }",
    _COLON: ": after the field name",
}


class GrammarError(Exception):
    """The text breaks the grammar at ``position`` of the piece last given."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


class ValueScanner:
    """Finds the end of one JSON value.

    Attributes:
        done: the value has ended.
        deepest: how deep its arrays and objects were nested; 0 for a plain value.
    """

    def __init__(self) -> None:
        self.done = False
        self.deepest = 0
        self._open: list[str] = []
        self._next = _VALUE
        self._in_string = False

    def feed(self, text: str, position: int, *, final: bool) -> int:
        """Reads on from ``position`` and gives where it stopped.

        Unless ``done`` then holds, the next piece must begin with the text from there on, followed by more.
        ``final`` says that no more will come. Raises GrammarError.
        """
        while not self.done:
            if self._in_string:
                position, go_on = self._read_string(text, position, final=final)
            else:
                position = _end(_BLANKS, text, self._read_run(text, position))
                go_on = position < len(text)
                if go_on:
                    position, go_on = self._read_token(text, position, final=final)
            if not go_on:
                if final:
                    within = "a string" if self._in_string else "a value"
                    raise GrammarError(len(text), f"the text ends within {within}: it is incomplete")
                return position
        return position

    def _read_run(self, text: str, position: int) -> int:
        if self._next in (_KEY, _KEY_OR_END):
            pattern, following = _FIELDS, _KEY
        elif self._next in (_VALUE, _VALUE_OR_END) and self._open[-1:] == ["]"]:
            pattern, following = _ELEMENTS, _VALUE
        else:
            return position
        run = pattern.match(text, position)
        if run is None:
            return position
        self._next = following
        return run.end()

    def _read_string(self, text: str, position: int, *, final: bool) -> tuple[int, bool]:
        position = _end(_PLAIN, text, position)
        if position == len(text):
            return position, False
        character = text[position]
        if character == '"':
            self._in_string = False
            self._after_string()
            return position + 1, True
        if character == "\\":
            escape = _ESCAPE.match(text, position)
            if escape is not None:
                return escape.end(), True
            if not final and len(text) - position < _LONGEST_ESCAPE:
                return position, False
            raise GrammarError(
                position,
                f"{text[position : position + 2]} is no escape of JSON: {_ESCAPES}",
            )
        raise GrammarError(
            position, f"a string holds the control character U+{ord(character):04X}: write it as an escape"
        )

    def _after_string(self) -> None:
        if self._next in (_KEY, _KEY_OR_END):
            self._next = _COLON
        else:
            self._after_value()

    def _after_value(self) -> None:
        self._next = _COMMA_OR_END
        self.done = not self._open

    def _read_token(self, text: str, position: int, *, final: bool) -> tuple[int, bool]:
        character, state = text[position], self._next
        if state == _COMMA_OR_END and character == ",":
            self._next = _KEY if self._open[-1] == "}" else _VALUE
        elif state == _COLON and character == ":":
            self._next = _VALUE
        elif self._open and character == self._open[-1] and state in (_COMMA_OR_END, _VALUE_OR_END, _KEY_OR_END):
            self._open.pop()
            self._after_value()
        elif character == '"' and state not in (_COLON, _COMMA_OR_END):
            self._in_string = True
        elif state in (_VALUE, _VALUE_OR_END):
            return self._read_value(text, position, final=final)
        else:
            raise self._unexpected(position, character, character)
        return position + 1, True

    def _read_value(self, text: str, position: int, *, final: bool) -> tuple[int, bool]:
        character = text[position]
        if character in "{[":
            self._open.append("}" if character == "{" else "]")
            self.deepest = max(self.deepest, len(self._open))
            self._next = _KEY_OR_END if character == "{" else _VALUE_OR_END
            return position + 1, True
        numeric = character in "-0123456789"
        end = _end(_NUMBER_CHARACTERS if numeric else _WORD, text, position)
        if end == len(text) and not final and (numeric or end - position < _LONGEST_WORD):
            return position, False
        if numeric:
            number = _NUMBER.match(text, position)
            if number is None or number.end() != end:
                raise GrammarError(position, f"{text[position:end][:40]} is no number of JSON")
        elif text[position:end] not in _LITERALS:
            found = text[position:end][:40] or character
            raise self._unexpected(position, found, character)
        self._after_value()
        return end, True

    def _unexpected(self, position: int, found: str, character: str) -> GrammarError:
        expected = _EXPECTED.get(self._next) or f", or {self._open[-1]}"
        return GrammarError(position, f"{expected} is expected here, not {found!r}{_hint(character)}")


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return position if found is None else found.end()


def _hint(character: str) -> str:
    if character in "]}":
        return " (JSON has no trailing commas)"
    if character in "/#":
        return " (JSON has no comments)"
    if character == "'":
        return " (JSON's quotes are double)"
    return ""
