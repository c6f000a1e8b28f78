"""Which internationalised addresses are certainly valid and canonical as they are, a column at a time.

Accepted are letters of which each is valid wherever it stands (PVALID of RFC 5892, without rules of context or
direction), which neither NFC nor the mapping of UTS #46 changes. Other domains are the library's to decide.
"""

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import Mask, as_mask, matches

# Lower-case Latin, Greek and Cyrillic, kana, Chinese characters, Hangul syllables; without those that UTS #46 maps.
SMALL_LETTERS = (
    r"\x{df}-\x{f6}\x{f8}-\x{ff}\x{101}\x{103}\x{105}\x{107}\x{109}\x{10b}\x{10d}\x{10f}\x{111}\x{113}\x{115}"
    r"\x{117}\x{119}\x{11b}\x{11d}\x{11f}\x{121}\x{123}\x{125}\x{127}\x{129}\x{12b}\x{12d}\x{12f}\x{131}"
    r"\x{135}\x{137}\x{13a}\x{13c}\x{13e}\x{142}\x{144}\x{146}\x{148}\x{14d}\x{14f}\x{151}\x{153}\x{155}"
    r"\x{157}\x{159}\x{15b}\x{15d}\x{15f}\x{161}\x{163}\x{165}\x{167}\x{169}\x{16b}\x{16d}\x{16f}\x{171}"
    r"\x{173}\x{175}\x{177}\x{17a}\x{17c}\x{17e}\x{219}\x{21b}"
    r"\x{3ac}-\x{3af}\x{3b1}-\x{3ce}\x{430}-\x{45f}\x{491}"
    r"\x{3041}-\x{3096}\x{30a1}-\x{30fa}\x{4e00}-\x{9fa5}\x{ac00}-\x{d7a3}"
)
CAPITALS = r"\x{c0}-\x{d6}\x{d8}-\x{de}\x{391}-\x{3a1}\x{3a3}-\x{3a9}\x{400}-\x{42f}"

_ATOM = rf"[a-zA-Z0-9_!#$%&'*+\-/=?^`{{|}}~{SMALL_LETTERS}{CAPITALS}]+"
_LABEL = rf"[a-z0-9{SMALL_LETTERS}]+(?:-[a-z0-9{SMALL_LETTERS}]+)*"
LOCAL_PART = rf"{_ATOM}(?:\.{_ATOM})*"
_ADDRESS = rf"^{LOCAL_PART}@(?:{_LABEL}\.)+[a-z]+$"

_MAX_BYTES = 64
# A label may have 63 octets in Punycode: four of "xn--", one hyphen, its ASCII characters, and at most six digits
# for each of its other characters (below U+D7FF, in a label so short).
_MAX_LABEL_OCTETS = 63
_PUNYCODE_SIGNS = 5
_PUNYCODE_DIGITS = 6


def accepts_international(texts: pa.StringArray) -> Mask:
    """Which addresses are valid and canonical, special-use domains apart. Of the others nothing is said."""
    accepted = as_mask(pc.less_equal(pc.binary_length(texts), _MAX_BYTES)) & matches(texts, _ADDRESS)
    if accepted.any():
        domains = pc.replace_substring_regex(texts.filter(pa.array(accepted)), pattern="^.*@", replacement="")
        characters = pc.utf8_length(domains).to_numpy()
        beyond_ascii = pc.count_substring_regex(domains, pattern=r"[^\x00-\x7f]").to_numpy()
        # Of the whole domain, and so of any of its labels.
        octets = _PUNYCODE_SIGNS + characters + (_PUNYCODE_DIGITS - 1) * beyond_ascii
        accepted[accepted] = (beyond_ascii == 0) | (octets <= _MAX_LABEL_OCTETS)
    return accepted
