"""The built-in corpus: prose only, in a fixed order, nothing twice."""

from itertools import islice

import pytest

from textvae.data.sources import python_docs
from textvae.data.sources.prose import prose_paragraphs

DOCSTRING = """Return the :class:`~numpy.ndarray` of *all* ``values``, see :func:`the index <index>`.

    .. code-block:: python

        values = [1, 2, 3]

A second paragraph with a `link <https://example.org>`_ and **bold** words in two
lines follows here::

>>> example(1)
2

Notes
-----
The heading above is left out, but this sentence stays.

.. note::
    What stands in a note is moved to the margin and kept.

- a list item that is not prose
:param x: a parameter, which is not prose either.

:meth:`Shop.open` begins a sentence with its own name and is kept.

See Also
--------
other.function : Does something else entirely, for other people.

| table | of | things |
+-------+----+--------+

lower case fragments are not prose at all, it seems.
"""


def test_prose_is_what_reads_as_sentences() -> None:
    assert prose_paragraphs(DOCSTRING) == [
        "Return the ndarray of all values, see the index.",
        "The heading above is left out, but this sentence stays.",
        "What stands in a note is moved to the margin and kept.",
        "Shop.open begins a sentence with its own name and is kept.",
    ]


def test_licences_are_left_out() -> None:
    assert prose_paragraphs("Copyright 2020 by somebody, who keeps every right to all of this text.") == []


def test_documents_are_labelled_ordered_and_new() -> None:
    documents = list(islice(python_docs.python_docs(), 300))
    assert documents == list(islice(python_docs.python_docs(), 300))
    assert {document.label for document in documents} == {"python"}
    paragraphs = [paragraph for document in documents for paragraph in document.paragraphs]
    assert len(paragraphs) == len(set(paragraphs))
    assert len({document.id for document in documents}) == len(documents)
    assert min(sum(len(text.split()) for text in document.paragraphs) for document in documents) >= 20


def test_a_class_brings_its_methods(tmp_path) -> None:
    path = tmp_path / "shop.py"
    path.write_text(
        '''"""All that there is to say about the shop in a sentence."""
class Shop:
    """A shop has a door, a window and a bell over the door."""
    def open(self):
        """Open the door of the shop and let the people come in."""
async def knock():
    """Knock at the door until somebody comes to open it for you."""
'''
    )
    found = python_docs._read_docstrings(python_docs._SourceFile("shop", "shop", path))
    assert [(name, len(paragraphs)) for name, paragraphs in found] == [
        ("shop", 1),
        ("shop.knock", 1),
        ("shop.Shop", 2),
    ]


def test_dependencies_are_found_through_each_other() -> None:
    packages = {file.package for file in python_docs._dependencies("textvae")}
    assert {"torch", "transformers", "sympy"} <= packages  # sympy is a requirement of torch alone
    assert "textvae" not in packages


def test_an_unknown_root_is_refused() -> None:
    with pytest.raises(ValueError, match="no-such-package is not installed"):
        list(python_docs._dependencies("no-such-package"))
