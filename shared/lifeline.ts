/**
 * Calls `end` when the process that started this one is gone, however it went: its side of the IPC channel closes even after
 * SIGKILL. Does nothing in a process started without such a channel (a shell, systemd, a container).
 */
export const onParentLost = (end: () => void): void => {
  if (!process.channel) return
  process.once('disconnect', end)
  process.channel.unref()
}
