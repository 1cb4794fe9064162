"""Makes the picture of a page smaller: PNG's filters are for photographs."""
import struct
import zlib

FILTERS = [
    lambda left, above, corner: 0,
    lambda left, above, corner: left,
    lambda left, above, corner: above,
    lambda left, above, corner: (left + above) // 2,
    lambda left, above, corner: min((left, above, corner), key=lambda it: abs(left + above - corner - it)),
]
SIZES = {2: 3, 6: 4}  # bytes of a pixel: RGB, RGBA


def smaller(png):
    """The same picture without filters, which zlib packs better where much is of one colour."""
    header = png[16:29]
    data = zlib.decompress(b''.join(body for kind, body in chunks(png) if kind == b'IDAT'))
    size = SIZES[header[9]]
    width = struct.unpack('>I', header[:4])[0] * size
    above, rows = bytes(width), b''
    for start in range(0, len(data), width + 1):
        row, unfiltered = bytearray(data[start + 1:start + 1 + width]), FILTERS[data[start]]
        for i in range(width):
            left, corner = (row[i - size], above[i - size]) if i >= size else (0, 0)
            row[i] = (row[i] + unfiltered(left, above[i], corner)) % 256
        above = row
        rows += b'\0' + row
    parts = (b'IHDR', header), (b'IDAT', zlib.compress(rows, 9)), (b'IEND', b'')
    return png[:8] + b''.join(chunk(kind, body) for kind, body in parts)


def chunks(png):
    at = 8
    while at < len(png):
        length, kind = struct.unpack('>I4s', png[at:at + 8])
        yield kind, png[at + 8:at + 8 + length]
        at += 12 + length


def chunk(kind, body):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
