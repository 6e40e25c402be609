"""Between a client and the gateway: passes requests on as they are and writes down what was paid with.

    relay.py LOG GATEWAY_PORT

Prints the port that it listens on (this machine only). Each request becomes a line of JSON in LOG: path, host, payment
header (or null), status, seconds. Ends with its standard input.
"""

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log_path, gateway_port = sys.argv[1], int(sys.argv[2])
writing = threading.Lock()


class Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        started = time.monotonic()
        gateway = http.client.HTTPConnection("127.0.0.1", gateway_port, timeout=60)
        gateway.putrequest("GET", self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "connection":
                gateway.putheader(name, value)
        gateway.endheaders()
        answer = gateway.getresponse()
        body = answer.read()
        line = {
            "path": self.path,
            "host": self.headers["Host"],
            "payment": self.headers["PAYMENT-SIGNATURE"],
            "status": answer.status,
            "seconds": time.monotonic() - started,
        }
        with writing, open(log_path, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
