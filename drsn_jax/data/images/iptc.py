"""The IPTC record of a photograph (caption, credit, keywords), as JPEG and TIFF hold it: IPTC-NAA Information Interchange Model, 4.2."""

from PIL import Image

TIFF_TAG = 33723
_SEGMENT_NAME, _RESOURCE = b"Photoshop 3.0\0", 0x0404  # a segment of resources, and the one of them that is the record
_MOST = 65_533 - len(_SEGMENT_NAME) - 12  # bytes of a record that a segment holds beside the resource's own header
_MARK = 0x1C  # begins each of a record's entries


def read_iptc(image: Image.Image) -> bytes | None:
    """The record of an opened image, empty where it has none; None where it is damaged."""
    record = b""
    if image.format in ("JPEG", "MPO"):
        record = image.info.get("photoshop", {}).get(_RESOURCE, b"")
    elif image.format == "TIFF":
        record = getattr(getattr(image, "tag_v2", None), "_tagdata", {}).get(TIFF_TAG, b"")  # as it lies there: the declared type varies
    return record if not record or record[0] == _MARK else None


def jpeg_segment(record: bytes) -> bytes | None:
    """The segment of a JPEG file that holds the record; None for one that is too long."""
    if len(record) > _MOST:
        return None
    resource = b"8BIM" + _RESOURCE.to_bytes(2, "big") + bytes(2) + len(record).to_bytes(4, "big") + record + bytes(len(record) % 2)
    content = _SEGMENT_NAME + resource
    return b"\xff\xed" + (len(content) + 2).to_bytes(2, "big") + content
