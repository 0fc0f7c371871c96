"""Header blocks of HTTP/2 (RFC 7541): sent are literals, not indexed and not in Huffman code; read is everything."""

from __future__ import annotations

from functools import cache

# Appendix A, "name value"; an entry without a value ends in its name.
_STATIC = """\
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200
:status 204|:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset
accept-encoding gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow
authorization|cache-control|content-disposition|content-encoding|content-language|content-length
content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match
if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards
proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie
strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"""
_TABLE = [(name, value) for name, _, value in (entry.partition(" ") for entry in _STATIC.replace("\n", "|").split("|"))]

_DYNAMIC_BYTES = 4096  # until a smaller size is agreed on

# Appendix B: the code is canonical, so the length of each symbol's code says all: "A" is 5 bits, "Z" 30; EOS is last.
_LENGTHS = (
    "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABC"
    "BAABCCCCCKGJIXPRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQS"
    "RRUUTTVSVWVVWWWWWXWWWWWVZ"
)


def encode(headers: list[tuple[str, str]]) -> bytes:
    """A header block."""
    block = bytearray()
    for name, value in headers:
        block += b"\x00" + _literal(name) + _literal(value)
    return bytes(block)


class Decoder:
    """Reads the header blocks of one connection, in order."""

    def __init__(self) -> None:
        self._dynamic: list[tuple[str, str]] = []  # the newest first
        self._room = _DYNAMIC_BYTES

    def decode(self, block: bytes) -> dict[str, str]:
        """Headers by name; ValueError when the block is broken."""
        headers: dict[str, str] = {}
        at = 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:
                    index, at = _integer(block, at, 7)
                    name, value = self._entry(index)
                elif first & 0xE0 == 0x20:
                    self._room, at = _integer(block, at, 5)
                    self._evict()
                    continue
                else:
                    index, at = _integer(block, at, 6 if first & 0x40 else 4)
                    name, at = (self._entry(index)[0], at) if index else _string(block, at)
                    value, at = _string(block, at)
                    if first & 0x40:
                        self._dynamic.insert(0, (name, value))
                        self._evict()
                headers[name] = value
        except (IndexError, KeyError) as error:
            raise ValueError(f"broken header block: {error!r}") from None
        return headers

    def _entry(self, index: int) -> tuple[str, str]:
        if not index:
            raise IndexError("index 0")
        return _TABLE[index - 1] if index <= len(_TABLE) else self._dynamic[index - len(_TABLE) - 1]

    def _evict(self) -> None:
        while self._dynamic and sum(len(name) + len(value) + 32 for name, value in self._dynamic) > self._room:
            self._dynamic.pop()


def _literal(text: str) -> bytes:
    content = text.encode("latin-1")
    size = len(content)
    if size < 127:
        return bytes((size,)) + content
    head, size = bytearray((127,)), size - 127
    while size >= 128:
        head.append(size % 128 + 128)
        size //= 128
    return bytes((*head, size)) + content


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    value = block[at] & ((1 << bits) - 1)
    at += 1
    if value < (1 << bits) - 1:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _string(block: bytes, at: int) -> tuple[str, int]:
    coded = block[at] & 0x80
    size, at = _integer(block, at, 7)
    content = block[at : at + size]
    if len(content) < size:
        raise IndexError("a string ends early")
    return (_huffman(content) if coded else content).decode("latin-1"), at + size


def _huffman(content: bytes) -> bytes:
    codes = _codes()
    text, code, length = bytearray(), 0, 0
    for byte in content:
        for bit in range(7, -1, -1):
            code, length = code << 1 | byte >> bit & 1, length + 1
            symbol = codes.get((length, code))
            if symbol is not None:
                text.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise KeyError("padding")
    return bytes(text)


@cache
def _codes() -> dict[tuple[int, int], int]:
    """(length, code) → symbol."""
    lengths = [ord(letter) - ord("A") + 5 for letter in _LENGTHS]
    codes: dict[tuple[int, int], int] = {}
    code = before = 0
    for symbol in sorted(range(len(lengths)), key=lambda symbol: (lengths[symbol], symbol)):
        code <<= lengths[symbol] - before
        before = lengths[symbol]
        codes[before, code] = symbol
        code += 1
    return codes
