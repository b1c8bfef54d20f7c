"""Runs decord in a process of its own, because it can hang or crash; started by decord_reader, by file name.

Out: a JSON line with times and rate, then a JSON line with the frame size, then the frames as raw bytes.
In: a JSON line with the frame indices. A failure is a JSON line with "error". Imports nothing of the project.
"""

import json
import os
import sys


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with frames
    import decord

    def send(**line) -> None:
        out.write(json.dumps(line).encode() + b"\n")
        out.flush()

    try:
        reader = decord.VideoReader(sys.argv[1], ctx=decord.cpu(0))
        total = len(reader)
        spans = reader.get_frame_timestamp(list(range(total)))
        send(times=[float(start) for start, _ in spans], rate=float(reader.get_avg_fps()))
        for number, index in enumerate(json.loads(sys.stdin.readline())):
            frame = reader[index].asnumpy()
            if number == 0:
                send(height=frame.shape[0], width=frame.shape[1])
            out.write(frame.tobytes())
            out.flush()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        send(error=str(error).splitlines()[0])
    out.flush()
    os._exit(0)  # decord's own tear-down can crash


if __name__ == "__main__":
    main()
