package squashfs

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// parallel calls f with each of 0 to n-1, on all CPUs, and returns the error of
// the least that has one. Each goroutine hands its own state to f.
func parallel[S any](n int, newState func() S, f func(state S, i int) error) error {
	var (
		next   atomic.Int64
		failed atomic.Bool
		wg     sync.WaitGroup
		errs   = make([]error, n)
	)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			state := newState()
			// Those less than one that failed were begun before it.
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[i] = f(state, i); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
