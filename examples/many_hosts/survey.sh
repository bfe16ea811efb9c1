#!/bin/sh
# Asks each host of a file for its system, and remembers who has answered: run it again for those that have not.
exec pooltable map --db survey.db --hosts "${1:-hosts.txt}" --ssh "${SSH:-ssh}" \
    --tag --keep-order --fails 2 --time-limit 60 --joblog survey.log --retry-failed uname -s
