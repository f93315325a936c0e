/**
 * Health check of a container: `node deploy/probe.mjs URL` exits with 0 when the service at URL can serve, else with 1 and a
 * sentence. http://HOST:PORT/PATH wants an answer of 200; grpc://HOST:PORT wants SERVING from gRPC's standard health service.
 * Plain JavaScript without dependencies: it runs every few seconds on machines that are busy with better things.
 */
import { get } from 'node:http'
import { connect } from 'node:http2'

const LIMIT_MS = 3_000
/** A gRPC message: not compressed, its length, then HealthCheckRequest {} or HealthCheckResponse { status: SERVING }. */
const REQUEST = Buffer.from([0, 0, 0, 0, 0])
const SERVING = Buffer.from([0, 0, 0, 0, 2, 0x08, 1])

const end = (cause) => {
  if (cause) console.error(`${process.argv[2]}: ${cause}`)
  process.exit(cause ? 1 : 0)
}

const askHttp = (url) => {
  get(url, ({ statusCode }) => end(statusCode === 200 ? '' : `status ${statusCode}`)).on('error', (error) =>
    end(error.message),
  )
}

const askGrpc = ({ host }) => {
  const session = connect(`http://${host}`).on('error', (error) => end(error.message))
  const call = session.request({
    ':method': 'POST',
    ':path': '/grpc.health.v1.Health/Check',
    'content-type': 'application/grpc',
    te: 'trailers',
  })
  const chunks = []
  call.on('data', (chunk) => chunks.push(chunk))
  call.on('error', (error) => end(error.message))
  call.on('end', () => end(Buffer.concat(chunks).equals(SERVING) ? '' : 'not serving'))
  call.end(REQUEST)
}

const ask = { 'http:': askHttp, 'grpc:': askGrpc }
const url = URL.canParse(process.argv[2] ?? '') ? new URL(process.argv[2]) : null
if (!url || !Object.hasOwn(ask, url.protocol)) end('name what to ask: http://HOST:PORT/PATH or grpc://HOST:PORT')
setTimeout(() => end(`no answer within ${LIMIT_MS} ms`), LIMIT_MS)
ask[url.protocol](url)
