"""How the report rounds numbers and writes them."""


def significant(value: float | None) -> float | None:
    """Rounded to 6 significant digits, as the evaluations are."""
    return None if value is None else float(f"{value:.6g}")


def shown(value: float | None, digits: int, *, signed: bool = False) -> str:
    """A number as text, with a true minus sign and thousands set apart; a dash for none."""
    if value is None:
        return "–"
    text = f"{value:{'+' if signed else ''},.{digits}f}".replace(",", "\u202f").replace("-", "−")
    return text.lstrip("+−") if not any(digit in text for digit in "123456789") else text


def scalar(value: object) -> str:
    """A single value of a JSON file as text; a dash for null and for an empty list or mapping."""
    if value is None or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "−")
    return str(value)


def is_hash(value: object) -> bool:
    """Whether a value is a long hexadecimal hash, such as an md5 or a commit."""
    return isinstance(value, str) and len(value) >= 32 and set(value) <= set("0123456789abcdef")
