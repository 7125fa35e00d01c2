"""Types into the shell, through a pseudo-terminal, and reads what comes back."""

import fcntl
import os
import pathlib
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

from common import finish

binary, folder = sys.argv[1], pathlib.Path(sys.argv[2])
PROMPT = "nightshift=> "
# The shell has the line, and Ctrl-C is a signal again.
ENTERED = "\x1b[?2004l"
ENDLESS = """SELECT sum((a.n * 31 + b.n * 17) % 1009) AS total
FROM (SELECT unnest(generate_series(1, 300000)) AS n) AS a
CROSS JOIN (SELECT unnest(generate_series(1, 300000)) AS n) AS b"""
UP, TAB, CONTROL_C, CONTROL_D = "\x1b[A", "\t", "\x03", "\x04"


class Shell:
    def __init__(self, *arguments, **environment):
        environment = {
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "HOME": str(folder),
            "NIGHTSHIFT_PAGER": "",
            **environment,
        }
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(binary, [binary, "sql", *arguments], environment)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.output = ""

    def read(self, seconds):
        """Whether something came within some seconds."""
        if not select.select([self.terminal], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.terminal, 65536)
        except OSError:  # The other side is closed.
            return False
        self.output += data.decode(errors="replace")
        return bool(data)

    def expect(self, text, seconds=60):
        """Waits for a text, and forgets everything up to it."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            left = deadline - time.monotonic()
            if left <= 0 or not self.read(left):
                raise AssertionError(f"{text!r} does not come after {self.output!r}")
        before, _, self.output = self.output.partition(text)
        return before

    def send(self, text):
        os.write(self.terminal, text.encode())

    def enter(self, text):
        """Types a line when the shell asks for one."""
        self.expect(PROMPT)
        self.send(text + "\r")
        self.expect(ENTERED)

    def answer(self, text):
        """What comes back for a line."""
        self.enter(text)
        deadline = time.monotonic() + 60
        while PROMPT not in self.output:
            assert time.monotonic() < deadline and self.read(60), self.output
        return self.output.partition(PROMPT)[0]

    def complete(self, text, expected):
        """Types a text and asks to complete it, until the names are known."""
        self.expect(PROMPT)
        self.send(text)
        deadline = time.monotonic() + 60
        while expected not in re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", self.output):
            assert time.monotonic() < deadline, self.output
            self.send(TAB)
            self.read(1)
        self.clear()

    def clear(self):
        """Takes back what was typed."""
        self.send(CONTROL_C)
        self.expect(ENTERED)

    def end(self, code):
        while self.read(60):
            pass
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == code, (status, self.output)
        os.close(self.terminal)


def has(text, *signs):
    for sign in signs:
        assert sign in text, (sign, text)


shell = Shell()

# A statement of several lines ends with a semicolon; an error ends nothing.
shell.expect(PROMPT)
shell.send("SELECT 6 *\r")
shell.expect("goes on until ;")
shell.send("7 AS answer;\r")
shell.expect("| 42 ")
shell.expect("(1 row)")
has(shell.answer("SELECT nothing FROM nowhere.at_all;"), "error: statement:1", "nowhere.at_all")
has(shell.answer("SELECT * FROM (VALUES (1), (NULL)) AS v(n);"), "| NULL |", "(2 rows)")
create = "CREATE TABLE raw.ratings AS SELECT 1 AS user_id, 2 AS item_id, 'fine' AS remark;"
has(shell.answer(create), "raw.ratings", "publication ", ": 1 table")

# Completion.
shell.complete("sele", "select")
shell.complete("SELECT * FROM raw.rat", "raw.ratings")
shell.complete("SELECT * FROM raw.ratings WHERE rem", "remark")
shell.complete("\\tim", "\\timing")

# Commands.
has(shell.answer("\\d"), "| raw ", "| ratings ", "| BASE TABLE", "(1 row)")
has(shell.answer("\\d raw.ratings"), "| user_id ", "| BIGINT ", "| remark ", "(3 rows)")
has(shell.answer("\\d raw.nothing"), "error: ", "raw.nothing")
has(shell.answer("\\dn r*"), "| raw ", "(1 row)")
has(shell.answer("\\df time_de*"), "time_decay")
has(shell.answer("\\?"), "\\watch [SECONDS]", "\\timing [on|off]")
has(shell.answer("\\nothing"), "error: ", "\\nothing", "there is no such command")
has(shell.answer("\\timing"), "timing: on")
has(shell.answer("SELECT 1 AS one;"), "Time: ", " ms")
has(shell.answer("\\timing off"), "timing: off")
has(shell.answer("SELECT 5 AS five, 'x' AS letter \\gx"), "-[ RECORD 1 ]", "five   | 5")
has(shell.answer("\\set n 5"))
has(shell.answer("SELECT $n * 111 AS product, '$n' AS text;"), "| 555 ", "| $n ")
has(shell.answer("SELECT $m;"), "the parameter $m has no value")
has(shell.answer("\\pset limit 2"))
has(shell.answer("SELECT unnest([1, 2, 3]) AS n;"), "(the first 2 rows;")
(folder / "more.sql").write_text("SELECT 'included' AS how;\nSELECT 'twice' AS how;\n")
has(shell.answer("\\i more.sql"), "| included |", "| twice ")

# Results in a file.
has(shell.answer("\\o out.csv"))
has(shell.answer("\\format csv"))
has(shell.answer("SELECT 1 AS a, NULL AS b;"), "(1 row)")
has(shell.answer("SELECT wrong;"), "error: ")
has(shell.answer("\\o"))
has(shell.answer("\\format table"))
assert (folder / "out.csv").read_text() == "a,b\n1,\n"

# Ctrl-C clears a line, cancels a query, a statement that writes, and a pause.
shell.expect(PROMPT)
shell.send("SELECT never")
shell.expect("never")
shell.clear()
has(shell.answer("SELECT 2 + 3 AS sum;"), "| 5 ")
shell.enter(ENDLESS.replace("\n", " ") + ";")
shell.send(CONTROL_C)
shell.expect("cancelled")
has(shell.answer("SELECT 10 + 1 AS sum;"), "| 11 ")
shell.enter("CREATE TABLE raw.endless AS " + ENDLESS.replace("\n", " ") + ";")
shell.send(CONTROL_C)
shell.expect("cancelled")
has(shell.answer("\\dt"), "| ratings ", "(1 row)")
shell.enter("SELECT 7 AS seen \\watch 0.1")
for _ in range(2):
    shell.expect("(every 0.1 s)")
    shell.expect("| 7 ")
shell.send(CONTROL_C)

# The last statement, over two lines; then the end of input.
shell.expect(PROMPT)
shell.send("SELECT 'kept'\r")
shell.expect("goes on until ;")
shell.send("|| ' in history' AS h;\r")
shell.expect("| kept in history |")
shell.expect(PROMPT)
shell.send(CONTROL_D)
shell.end(0)

# Another shell knows it. What does not fit on the screen goes through the pager.
history = folder / ".local/state/nightshift/history"
assert history.stat().st_mode & 0o077 == 0
shell = Shell("--param", "n=30", NIGHTSHIFT_PAGER="sed s/^/paged:/")
shell.expect(PROMPT)
shell.send(UP)
shell.expect("in history")
shell.send("\r")
shown = shell.expect("| kept in history |")
assert "paged:" not in shown, shown
has(shell.answer("SELECT unnest(generate_series(1, $n)) AS number;"), "paged:| 17 ", "(30 rows)")
shell.enter("\\q")
shell.end(0)

# A request to terminate ends it, and gives the terminal back.
shell = Shell(NIGHTSHIFT_HISTORY=str(folder / "elsewhere"))
shell.answer("SELECT 1 AS one;")
os.kill(shell.pid, signal.SIGTERM)
shell.end(130)
assert "SELECT 1 AS one;" in (folder / "elsewhere").read_text()
finish()
