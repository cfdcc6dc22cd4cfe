# Sourced by the job scripts beside it, for commands that go on where they were stopped.
#   in_all_tasks COMMAND...   runs a command in all tasks of the job, and ends the job if it fails
# The job goes back into the queue when its time is up (USR1, of --signal), and when it is preempted. What
# fails, is cancelled or is killed for its memory does not.

requeue() {
    trap '' USR1
    scontrol requeue "$SLURM_JOB_ID"  # sends TERM to the tasks, and after KillWait KILL
    wait
    exit 0
}
trap requeue USR1

# SLURM requeues a preempted job by itself, but with a grace time it begins by ending the tasks alone
preempted() {
    [[ $(squeue --noheader --jobs "$SLURM_JOB_ID" --Format PreemptTime) == *[0-9]* ]]
}

in_all_tasks() {
    local status=0
    # srun takes --cpus-per-task from the job no longer; tasks would wait for one that has gone
    srun --cpus-per-task "$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 "$@" &
    wait $! || status=$?
    [ "$status" -eq 0 ] && return
    if preempted; then requeue; fi
    exit "$status"
}
