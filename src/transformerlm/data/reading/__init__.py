"""Readers of the files that text is kept in: compressed files, tables, web pages and books.

    plain.py        bytes of a file, at any place
    utf8.py         bytes to text, with the place of what is no UTF-8
    streams.py      bytes of a file in order: as they are, or unpacked
    archives.py     members of .zip and .tar, each a file of its own
    window.py       text of either, for what divides it into chunks
    records.py      documents of files that hold many: rows of tables and CSV files, web pages, books
    csv_rows.py, tables.py, html.py, epub.py
                    one format each; markup.py: tags and text of a page

`kinds.py` names the formats. A stream of bytes and a stream of records are both read forward once, in bounded
memory. A position in either is one of the text (`Chunk.start`), and so the text is divided as it would be if
it lay in a plain file; `file_position` is one of the file, for progress.
"""
