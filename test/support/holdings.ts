import { controlWorker, type Holdings } from '../../services/gateway/placement/workers.ts'

/** What a worker that asks for no token holds now. */
export const holdingsOf = ({ address }: { address: string }): Promise<Holdings> => {
  const control = controlWorker({ address, token: null })
  return control.holdings().finally(() => control.close())
}
