"""Whether a response repeats itself. Plain text in, so that the report can ask without the libraries that train."""

WORDS, TIMES = 4, 3
"""A response repeats itself if so many words in a row occur so many times."""


def repeats_itself(text: str, words: int = WORDS, times: int = TIMES) -> bool:
    """Whether the same `words` words in a row stand in a text at least `times` times, without overlap counted twice.

    That is what a model in a loop writes; a list that begins each line in the same way does not reach it.
    """
    parts = text.lower().split()
    last, counts = dict[tuple[str, ...], int](), dict[tuple[str, ...], int]()
    for place in range(len(parts) - words + 1):
        phrase = tuple(parts[place : place + words])
        if place - last.get(phrase, -words) >= words:
            last[phrase] = place
            counts[phrase] = counts.get(phrase, 0) + 1
            if counts[phrase] >= times:
                return True
    return False
