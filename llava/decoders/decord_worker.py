"""Runs decord in a process of its own, because it can hang or crash; started by file name.

Speaks as `llava.decoders.child` says. Imports nothing of the project.
"""

import json
import os
import struct
import sys


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with frames
    import decord

    def send(data: bytes = b"", **line) -> None:
        out.write(json.dumps(line).encode() + b"\n" + data)
        out.flush()

    try:
        reader = decord.VideoReader(os.path.abspath(sys.argv[1]), ctx=decord.cpu(0))
        total = len(reader)
        times = [float(start) for start, _ in reader.get_frame_timestamp(list(range(total)))]
        send(struct.pack(f"={total}d", *times), count=total, rate=float(reader.get_avg_fps()))
        for index in json.loads(sys.stdin.readline()):
            frame = reader[index].asnumpy()
            if frame.shape[2] != 3:  # so it returns some turned pictures
                send(error=f"it gives pictures of {frame.shape[2]} channels")
                break
            send(frame.tobytes(), height=frame.shape[0], width=frame.shape[1])
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        send(error=str(error).splitlines()[0])
    out.flush()
    os._exit(0)  # decord's own tear-down can crash


if __name__ == "__main__":
    main()
