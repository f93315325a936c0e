import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer as createHttp, type Server as HttpServer } from 'node:http'
import { type AddressInfo, createServer as createTcp } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../../../shared/root.ts'
import { EXPERT_SERVICE } from '../../../shared/rpc.ts'
import { addHealth, closeServer, createServer, listen } from '../../../shared/server.ts'

const probe = (...args: string[]): Promise<{ code: number; said: string }> =>
  new Promise((resolve) => {
    const script = join(packageRoot, 'deploy', 'probe.mjs')
    execFile(process.execPath, [script, ...args], (error, _, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, said: stderr.trim() }),
    )
  })

const portOf = async (server: HttpServer | ReturnType<typeof createTcp>): Promise<number> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

test('a gRPC service is healthy while it says so, also where calls need a token', async () => {
  const server = createServer({ token: 'a-token-of-some-length', maxMessageBytes: 1024 })
  const setServing = addHealth(server, EXPERT_SERVICE)
  const url = `grpc://${await listen(server, '127.0.0.1:0')}`
  expect(await probe(url)).toEqual({ code: 1, said: `${url}: not serving` })
  setServing(true)
  expect(await probe(url)).toEqual({ code: 0, said: '' })
  setServing(false)
  expect((await probe(url)).code).toBe(1)
  await closeServer(server, 100)
  expect((await probe(url)).code).toBe(1)
})

test('an HTTP service is healthy when it answers 200', async () => {
  const server = createHttp((request, response) => {
    response.statusCode = request.url === '/readyz' ? 200 : 503
    response.end()
  })
  const url = `http://127.0.0.1:${await portOf(server)}`
  expect(await probe(`${url}/readyz`)).toEqual({ code: 0, said: '' })
  expect(await probe(`${url}/other`)).toEqual({ code: 1, said: `${url}/other: status 503` })
  server.close()
})

test('a service that takes the connection and says nothing is not healthy', async () => {
  const server = createTcp()
  const port = await portOf(server)
  for (const url of [`http://127.0.0.1:${port}/readyz`, `grpc://127.0.0.1:${port}`])
    expect(await probe(url)).toEqual({ code: 1, said: expect.stringMatching(/no answer within \d+ ms$/) })
  server.close()
})

test('what is no address is refused', async () => {
  for (const args of [[], ['readyz'], ['ftp://127.0.0.1:1']])
    expect(await probe(...args)).toEqual({ code: 1, said: expect.stringContaining('name what to ask') })
})
