from toy import run

VERSION = 1

run("fit_encoder", VERSION)
