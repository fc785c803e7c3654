import os

import trio
import trio.testing

from edge_runtime.cli.lines import LineSplitter, Printer, without_colours


def test_lines_come_whole() -> None:
    lines = LineSplitter()
    assert lines.feed(b"one\ntw") == [b"one"]
    assert lines.feed(b"o\n\nthree") == [b"two", b""]
    assert lines.flush() == [b"three"]
    assert lines.flush() == []


def test_foreign_bytes_stay() -> None:
    assert LineSplitter().feed(b"\xff\xfe\x00\n") == [b"\xff\xfe\x00"]


def test_long_line_is_cut() -> None:
    lines = LineSplitter(limit_bytes=4)
    assert lines.feed(b"abcdefghij\n") == [b"abcd", b"efgh", b"ij"]


def test_line_without_end_is_cut() -> None:
    lines = LineSplitter(limit_bytes=4)
    assert lines.feed(b"abc") == []
    assert lines.feed(b"defghij") == [b"abcd", b"efgh"]
    assert lines.feed(b"k\nx") == [b"ijk"]
    assert lines.flush() == [b"x"]


def test_line_as_long_as_the_limit() -> None:
    lines = LineSplitter(limit_bytes=4)
    assert lines.feed(b"abcd") == []
    assert lines.feed(b"\n") == [b"abcd"]


def test_colours_are_taken_out() -> None:
    assert without_colours(b"\x1b[1;31mred\x1b[0m plain") == b"red plain"


async def test_slow_reader_holds_up_only_its_writer() -> None:
    reading, writing = os.pipe()
    data = b"x" * 300_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Printer(writing).write, data)
        await trio.testing.wait_all_tasks_blocked()
        read = b""
        async with trio.lowlevel.FdStream(reading) as stream:
            while len(read) < len(data):
                read += await stream.receive_some()
    os.close(writing)
    assert read == data


async def test_gone_reader_ends_the_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    printer = Printer(writing)
    await printer.write(b"nobody hears\n")
    await printer.write(b"this either\n")
    os.close(writing)
