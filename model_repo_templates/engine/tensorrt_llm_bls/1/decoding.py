"""Token ids to text deltas. Plain Python, so that it can be tried without a server.

A token may hold half a character, and some tokenizers drop the space before the first word that they decode. So new
tokens are decoded together with those that came just before them, and only the text that this adds is new.
"""

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER_TOKENS = 4
"""UTF-8 has at most four bytes a character and a token at least one; a longer tail is no character in the making."""


class SequenceTexts:
    """Texts of a request's sequences; a sequence is known by its batch and sequence index and has one text a beam."""

    def __init__(self, decode, keeps_state):
        self._decode = decode
        self._keeps_state = keeps_state
        self._decoders = {}

    def take(self, sequence, beams):
        """New text of each beam, from its new ids. Without `keeps_state` the ids are decoded by themselves."""
        if not self._keeps_state:
            return [self._decode(ids) for ids in beams]
        decoders = self._decoders.setdefault(sequence, [DeltaDecoder(self._decode) for _ in beams])
        return [decoder.take(ids) for decoder, ids in zip(decoders, beams, strict=True)]

    def flush(self):
        """What was held back when generation ended in the middle of a character: texts by beam, for each sequence."""
        ends = [[decoder.flush() for decoder in self._decoders[sequence]] for sequence in sorted(self._decoders)]
        return [texts for texts in ends if any(texts)]


class DeltaDecoder:
    """Text of one sequence, piece by piece: the pieces joined are the text of all tokens decoded at once.

    `decode` turns a list of ids into text.
    """

    def __init__(self, decode):
        self._decode = decode
        self._ids = []  # from the last complete piece on
        self._known = 0  # how many of them have had their text given out

    def take(self, ids):
        """Text that `ids` complete; the rest is held back."""
        return "".join(self._take_one(i) for i in ids)

    def _take_one(self, new_id):
        # One by one, since with byte fallback a single open character spoils the text of all bytes before it.
        self._ids.append(new_id)
        text = self._decode(self._ids)
        if not text.endswith(REPLACEMENT):
            return self._give(text, len(self._ids))
        if len(self._ids) - self._known > 2 * LONGEST_CHARACTER_TOKENS:
            return self._give_broken(text)
        return ""

    def flush(self):
        """What was held back, now that no more tokens come."""
        return self._give(self._decode(self._ids), len(self._ids))

    def _give(self, text, count):
        """New part of `text`, which the first `count` ids decode to."""
        before = self._decode(self._ids[: self._known])
        if len(text) <= len(before):
            return ""
        self._ids, self._known = self._ids[self._known :], count - self._known
        return text[len(before) :]

    def _give_broken(self, text):
        """Bytes that are no UTF-8: give them out up to a place where the text can be cut without changing it."""
        for cut in range(len(self._ids) - LONGEST_CHARACTER_TOKENS, self._known, -1):
            head, tail = self._decode(self._ids[:cut]), self._decode(self._ids[cut:])
            if head + tail == text:
                return self._give(head, cut)
        return ""
