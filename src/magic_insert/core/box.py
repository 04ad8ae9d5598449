"""A rectangle of pixels; free of torch, so that a wrong one is refused before anything is loaded."""

from dataclasses import dataclass

from magic_insert.core.errors import UserError


@dataclass(frozen=True)
class Box:
    """A rectangle in whole pixels, top-left origin: columns x .. x+w-1, rows y .. y+h-1."""

    x: int
    y: int
    w: int
    h: int

    @property
    def right(self) -> int:
        """The first column to the right of the box."""
        return self.x + self.w

    @property
    def bottom(self) -> int:
        """The first row below the box."""
        return self.y + self.h

    @property
    def centre_x(self) -> float:
        """The horizontal middle, in pixels."""
        return self.x + self.w / 2

    @property
    def pixels(self) -> tuple[slice, slice, slice]:
        """What its pixels in a picture C H W are indexed by."""
        return slice(None), slice(self.y, self.bottom), slice(self.x, self.right)

    def inside(self, height: int, width: int) -> bool:
        """Whether the whole box lies on a picture of `height` x `width` pixels."""
        return self.x >= 0 and self.y >= 0 and self.right <= width and self.bottom <= height

    def within(self, height: int, width: int) -> "Box":
        """The part of the box that lies on a picture of `height` x `width` pixels."""
        x, y = max(self.x, 0), max(self.y, 0)
        return Box(x, y, min(self.right, width) - x, min(self.bottom, height) - y)

    def require_inside(self, height: int, width: int) -> "Box":
        """This box, or a UserError when it is empty or leaves a picture of `height` x `width` pixels."""
        if self.w < 1 or self.h < 1:
            raise UserError(f"expected a box of at least 1 x 1 pixels, got w={self.w} h={self.h}")
        if not self.inside(height, width):
            raise UserError(
                f"expected a box inside the {width} x {height} background, got x={self.x} y={self.y} w={self.w} "
                f"h={self.h}; set box=[x,y,w,h] in background pixels, top-left origin"
            )
        return self
