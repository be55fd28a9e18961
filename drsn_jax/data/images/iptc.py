"""The IPTC record of a photograph (caption, credit, keywords) in JPEG and TIFF: IPTC-NAA Information Interchange Model, 4.2."""

from PIL import Image

TIFF_TAG = 33723
_SEGMENT_NAME, _RESOURCE = b"Photoshop 3.0\0", 0x0404  # the segment of resources, and the resource of the record
_MOST = 65_533 - len(_SEGMENT_NAME) - 12  # maximum bytes of a record in a segment, without the resource's header
_MARK = 0x1C  # first byte of each entry of a record


def read_iptc(image: Image.Image) -> bytes | None:
    """Return the record of an opened image: empty if it has none, None if it is damaged."""
    record = b""
    if image.format in ("JPEG", "MPO"):
        record = image.info.get("photoshop", {}).get(_RESOURCE, b"")
    elif image.format == "TIFF":
        record = getattr(getattr(image, "tag_v2", None), "_tagdata", {}).get(TIFF_TAG, b"")  # raw, because the declared type varies
    return record if not record or record[0] == _MARK else None


def jpeg_segment(record: bytes) -> bytes | None:
    """Return the segment of a JPEG file with the record; None if the record is too long."""
    if len(record) > _MOST:
        return None
    resource = b"8BIM" + _RESOURCE.to_bytes(2, "big") + bytes(2) + len(record).to_bytes(4, "big") + record + bytes(len(record) % 2)
    content = _SEGMENT_NAME + resource
    return b"\xff\xed" + (len(content) + 2).to_bytes(2, "big") + content
