"""What a user is meant to read: a single line, exit code 2. Either the input does not fit, or the machine refused."""

import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_PLACE = (
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
)
# Torch's CPU allocator raises a plain RuntimeError; pathlib does the same for a loop of symbolic links.
NO_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|out of memory|unable to allocate", re.IGNORECASE
)
LOOP = re.compile(r"symlink loop", re.IGNORECASE)


class UserError(ValueError):
    """Says what was expected, what came and what to do; the command line prints it without a traceback."""


@contextmanager
def expecting(what: str, *errors: type[BaseException], do: str = "") -> Iterator[None]:
    """Inside this block each of `errors` becomes a `UserError`: expected `what`, got what it says; `do`."""
    try:
        yield
    except UserError:
        raise
    except errors as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        missing = "no " if isinstance(error, KeyError) else ""
        raise UserError(f"expected {what}, got: {missing}{said}" + (f"; {do}" if do else "")) from error


def require_known(what: str, names: str | Iterable[str], known: Sequence[str], do: str = "") -> None:
    """That a name, or each of several, is among `known`; raises `UserError` with the first of these otherwise."""
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            shown = ", ".join(known[:24]) + (", ..." if len(known) > 24 else "")
            raise UserError(
                f"expected {what} to be one of {shown or 'no names'}, got {name!r}"
                + (f"; {do}" if do else "")
            )


def require_package(package: str, use: str, do: str, module: str = "") -> None:
    """That a package (of `module`, if named otherwise) is installed; raises `UserError` with what to `do` otherwise."""
    if find_spec(module or package) is None:
        raise UserError(f"expected the package {package} for {use}, got none; {do}")


@contextmanager
def needing(package: str, use: str, extra: str) -> Iterator[None]:
    """Inside this block `package`, which comes with our `extra`, is imported; without it a `UserError` says so."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"expected {package} for {use}, got none; pip install 'magic-insert[{extra}]'"
        ) from error


def mendable(error: BaseException) -> str | None:
    """What a user is told of `error` in one line: input that does not fit, or what the machine refused, a disk, a path,
    its memory; None for any other error.

    Causes are looked at too, since libraries raise errors of their own for these.
    """
    if isinstance(error, UserError):
        return str(error)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (*NO_ROOM, *CLOSED, *NO_PLACE):
            place = str(seen.filename)[:300] if seen.filename else "its files"
            return (
                f"expected to be able to use {place}, got {seen.strerror}; make room or choose another place"
            )
        if isinstance(seen, RuntimeError) and LOOP.search(str(seen)):
            return f"expected a path that ends somewhere, got a loop of symbolic links ({seen}); set another path"
        if isinstance(seen, MemoryError) or (isinstance(seen, RuntimeError) and NO_MEMORY.search(str(seen))):
            return (
                "expected enough memory for this, got too little on this machine; set a smaller batch_size or "
                "picture, or model.dtype=bfloat16"
            )
        seen = seen.__cause__ or seen.__context__
    return None
