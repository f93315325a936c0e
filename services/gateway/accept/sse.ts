import { once } from 'node:events'
import type { ServerResponse } from 'node:http'

/** Keeps proxies from closing a stream that waits for its next token. */
const pingIntervalMs = 15_000
/** A reader that takes nothing for this long is gone. */
const stallLimitMs = 60_000

/** Writer of server-sent events (WHATWG HTML §9.2). */
export type Events = {
  /** Resolves when the reader has room for more; once the reader is gone it writes nothing. */
  send(data: unknown, id?: string): Promise<void>
  /** Ends the stream; `done` adds OpenAI's closing event. */
  end(done: boolean): void
}

/** Sends the headers at once. A reader that stalls is disconnected, which `raw` tells by its close event. */
export const openEvents = (raw: ServerResponse, headers: Record<string, string>): Events => {
  raw.writeHead(200, {
    ...headers,
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    // nginx would otherwise collect the stream.
    'x-accel-buffering': 'no',
  })
  raw.flushHeaders()
  const ping = setInterval(() => {
    if (!raw.writableNeedDrain) raw.write(': ping\n\n')
  }, pingIntervalMs)
  raw.once('close', () => clearInterval(ping))

  const write = async (text: string): Promise<void> => {
    if (raw.destroyed || raw.writableEnded || raw.write(text)) return
    const waited = new AbortController()
    const stall = setTimeout(() => raw.destroy(), stallLimitMs)
    const { signal } = waited
    // Either event rejects the other's wait, which is nobody's concern.
    await Promise.race([once(raw, 'drain', { signal }), once(raw, 'close', { signal })]).finally(() => {
      clearTimeout(stall)
      waited.abort()
    })
  }

  return {
    send: (data, id) => write(`${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`),
    end(done) {
      clearInterval(ping)
      if (!raw.destroyed) raw.end(done ? 'data: [DONE]\n\n' : '')
    },
  }
}
