"""An RTSP camera for tests: one connection after another, over which it sends a film's packets."""

import re
import socket
import threading

import av
import numpy as np

from .conftest import picture

# static payload type 32 is MPEG-2 video
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 32\r\n"


def rtp_packets(frames: int, size=(96, 64)) -> list[bytes]:
    """RTP packets of MPEG-2 video, as FFmpeg writes them."""
    packets = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(2)
        with av.open(f"rtp://127.0.0.1:{receiver.getsockname()[1]}", "w", format="rtp") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 1
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(picture(number, size[1], size[0])), format="rgb24"
                )
                for packet in stream.encode(frame):
                    container.mux(packet)
                    packets.append(receiver.recv(2**16))
    return packets


class Camera:
    """A context manager with its `url`. visits: for each connection, whether it is then closed or left silent."""

    def __init__(self, packets: list[bytes], visits: tuple[str, ...]):
        self.packets, self.visits, self.served = packets, visits, 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://me:secret@127.0.0.1:{self.server.getsockname()[1]}/film"
        self.done = threading.Event()

    def __enter__(self) -> "Camera":
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.server.close()

    def _serve(self) -> None:
        for end in self.visits:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as file:
                self._answer(file)
                self.served += 1
                if end == "silent":
                    self.done.wait(60)
        self.server.close()

    def _answer(self, file) -> None:
        """Requests up to PLAY, then the packets, interleaved."""
        while True:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                if not (line := file.readline()):
                    return
                request += line
            method, sequence = request.split()[0], re.search(rb"CSeq: *(\d+)", request)[1].decode()
            extra, body = {
                b"DESCRIBE": ("Content-Type: application/sdp\r\n", SDP),
                b"SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
            }.get(method, ("Session: 1\r\n", ""))
            head = f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
            file.write((head + body).encode())
            file.flush()
            if method == b"PLAY":
                break
        for packet in self.packets:
            file.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
        file.flush()
