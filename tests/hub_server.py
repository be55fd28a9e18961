"""A stand-in for the Hugging Face Hub on this machine: repositories, commits and files, as far as models need them."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """A server: `repos` maps owner/name to its commits, oldest first: (hash, {path: content}). `token` is the one with write access."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.token, self.requests = {}, "hf_secret", []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo, files):
        commits = self.repos.setdefault(repo, [])
        content = dict(commits[-1][1]) if commits else {}
        content |= files
        commits.append((hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest(), content))
        return commits[-1][0]

    def find(self, repo, revision):
        """Return a commit, or the name of the Hub's error."""
        if repo not in self.repos:
            return "RepoNotFound"
        found = [one for one in self.repos[repo] if revision in (one[0], "main")]
        return found[-1] if found else "RevisionNotFound"

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        """Log nothing."""

    def answer(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/revision/([^/]+)|/tree/([^/]+))?", path):
            repo, revision, tree = match.groups()
            found = self.server.find(repo, revision or tree or "main")
            if isinstance(found, str):
                self.answer({"error": found}, 404, X_Error_Code=found)
                return
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in found[1].items()
            ]
            self.answer(entries if tree else {"id": repo, "sha": found[0], "siblings": [{"rfilename": name} for name in found[1]]})
        elif match := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = match.groups()
            commit, files = self.server.find(repo, revision)
            if name not in files:
                self.answer(b"", 404, X_Error_Code="EntryNotFound")
                return
            self.answer(files[name], X_Repo_Commit=commit, ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"')
        else:
            self.answer({"error": f"not here: {path}"}, 501)

    do_HEAD = do_GET

    def do_POST(self):
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if repo in self.server.repos:
                self.answer({"error": "You already created this model repo", "url": f"{self.server.address}/{repo}"}, 409)
            else:
                self.server.repos[repo] = []
                self.answer({"url": f"{self.server.address}/{repo}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]})
        elif match := re.match(r"/api/models/([\w-]+/[\w-]+)/commit/main", self.path):
            lines = [json.loads(line)["value"] for line in body.splitlines()]
            files = {line["path"]: base64.b64decode(line["content"]) for line in lines if "content" in line}
            commit = self.server.commit(match[1], files)
            url = f"{self.server.address}/{match[1]}/commit/{commit}"
            self.answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer({"error": f"not here: {self.path}"}, 501)
