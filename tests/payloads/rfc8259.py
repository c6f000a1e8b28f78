"""The grammar of RFC 8259, written down once more from its ABNF, independent of any decoder: a recogniser, and texts of
it. Slow and plain on purpose."""

from hypothesis import strategies as st

BLANK = " \t\n\r"
DIGITS = "0123456789"
HEXADECIMAL = DIGITS + "abcdefABCDEF"


class Recogniser:
    """Reads a text as far as the grammar goes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._plain_span = (-1, -1)
        self.token = 0  # where the token that the grammar ends in began

    def accepts(self) -> bool:
        """Whether the whole text is one array: ws [ … ] ws."""
        self._blanks()
        if self._peek() != "[":
            return False
        if not self._value():
            return False
        self._blanks()
        self.token = self._at
        return self._at == len(self._text)

    @property
    def furthest(self) -> int:
        """The first place at which no text of the grammar can go on as this one does."""
        return self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _blanks(self) -> None:
        while self._peek() and self._peek() in BLANK:
            self._at += 1

    def _take(self, characters: str) -> bool:
        found = self._peek()
        if found == "" or found not in characters:
            return False
        self._at += 1
        return True

    def _value(self) -> bool:
        self._blanks()
        self.token = self._at
        first = self._peek()
        if first == "{":
            return self._members("}", self._member)
        if first == "[":
            return self._members("]", self._value)
        if first == '"':
            return self._string()
        start = self._at
        word = next((word for word in ("true", "false", "null") if first == word[0]), None)
        is_complete = self._number() if word is None else all(map(self._take, word))
        self._plain_span = (start, self._at)
        return is_complete

    def _members(self, end: str, member) -> bool:
        self._at += 1
        self._blanks()
        self.token = self._at
        if self._take(end):
            return True
        while True:
            if not member():
                return False
            # What follows a number or word at once may be meant as part of it.
            start, stop = self._plain_span
            self.token = start if stop == self._at else self._at
            self._blanks()
            self.token = self.token if stop == self._at else self._at
            if self._take(end):
                return True
            if not self._take(","):
                return False

    def _member(self) -> bool:
        self._blanks()
        self.token = self._at
        if self._peek() != '"' or not self._string():
            return False
        self._blanks()
        self.token = self._at
        return self._take(":") and self._value()

    def _string(self) -> bool:
        self._at += 1
        while True:
            self.token = self._at
            character = self._peek()
            if character == "" or ord(character) < 0x20:
                return False
            self._at += 1
            if character == '"':
                return True
            if character == "\\" and not self._escape():
                return False

    def _escape(self) -> bool:
        if self._take('"\\/bfnrt'):
            return True
        return self._take("u") and all(self._take(HEXADECIMAL) for _ in range(4))

    def _number(self) -> bool:
        self._take("-")
        if not self._take("0"):
            if not self._take(DIGITS[1:]):
                return False
            while self._take(DIGITS):
                pass
        if self._take(".") and not self._some_digits():
            return False
        if self._take("eE"):
            self._take("+-")
            return self._some_digits()
        return True

    def _some_digits(self) -> bool:
        found = False
        while self._take(DIGITS):
            found = True
        return found


BLANKS = st.sampled_from(["", "", "", " ", "\n", "\r\n", "\t "])
_CHARACTERS = [*"aé日😀 '/{}[],:\x7f\u2028\u00a0", *(f"\\{character}" for character in '"\\/bfnrt')]
_CHARACTERS += ["\\u0000", "\\u00E9", "\\u00e9", "\\uD83d\\uDE00", "\\uFFFF"]
JSON_STRINGS = st.lists(st.sampled_from(_CHARACTERS), max_size=4).map(lambda parts: '"' + "".join(parts) + '"')
_FRACTIONS = st.sampled_from(["", "", ".0", ".50", ".123456789012345678901"])
_EXPONENTS = st.sampled_from(["", "", "e0", "E+05", "e-400", "E999"])
_INTEGERS = st.sampled_from(["0", "-0", "7", "-12", "1000000000000000000000"])
NUMBERS = st.tuples(_INTEGERS, _FRACTIONS, _EXPONENTS).map("".join)


def _joined(opening: str, closing: str, members: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    padded = st.tuples(BLANKS, members, BLANKS).map("".join)
    return st.tuples(BLANKS, st.lists(padded, max_size=3)).map(
        lambda parts: opening + (",".join(parts[1]) or parts[0]) + closing
    )


def _objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return _joined("{", "}", st.tuples(JSON_STRINGS, BLANKS, st.just(":"), BLANKS, values).map("".join))


VALUES = st.recursive(
    JSON_STRINGS | NUMBERS | st.sampled_from(["true", "false", "null"]),
    lambda inner: _objects(inner) | _joined("[", "]", inner),
    max_leaves=4,
)
ARRAYS = st.tuples(BLANKS, _joined("[", "]", _objects(VALUES) | VALUES), BLANKS).map("".join)
