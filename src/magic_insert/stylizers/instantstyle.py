"""InstantStyle (Wang et al. 2024): the base model, the subject in words, the style through the IP-Adapter.

Nothing is personalised. The adapter acts in the blocks of `style.blocks`: InstantStyle's own is
`up_blocks.0.attentions.1`, to which `down_blocks.2.attentions.1` adds the layout.
"""

from magic_insert.stylizers.base import DiffusionStylizer


class InstantStyleStylizer(DiffusionStylizer):
    """Draws the subject of `subject.text` in the style of any scene."""
