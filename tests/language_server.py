"""An OpenAI-compatible server on this machine that replies by rule, for tests of what is asked of language models."""

import http.server
import json
import threading


class RuleServer:
    """Listens at `url` until `close`; subclasses say what they reply to a prompt."""

    def __init__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
                text = outer.reply(prompt)
                body = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
                self.send_response(401 if text is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def reply(self, prompt):
        """The reply's text; None refuses as for a wrong key."""
        raise NotImplementedError

    def close(self):
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()
