"""The part of a page that is written from saved results, between two marks."""

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def between_marks(page: str, part: str) -> str:
    """The page with another part; as it is where the marks are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{part}{end}{after}" if begin and end else page
