from toy import run

VERSION = 1

run("train_joint", VERSION)
