/**
 * Calls `end` once when the process that started this one is gone, however it went: its side of the IPC channel closes even
 * after SIGKILL. At once where that has happened already. Does nothing in a process started without such a channel (from a
 * shell, systemd, a container).
 */
export const onParentLost = (end: () => void): void => {
  const connected: boolean | undefined = process.connected
  if (connected === undefined) return
  if (!connected) {
    end()
    return
  }
  process.once('disconnect', end)
  // Listening would keep a process alive that has nothing left to do.
  process.channel?.unref()
}
