"""What servers of the tests have in common."""

from http.server import BaseHTTPRequestHandler


class Replying(BaseHTTPRequestHandler):
    """Answers with one body and prints nothing."""

    def reply(self, data, status=200):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass
