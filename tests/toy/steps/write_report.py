from toy import run

VERSION = 1

run("write_report", VERSION)
