package simulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// message is one of a fakeSQS.
type message struct {
	body    string
	visible time.Time
	receipt int
}

// fakeSQS is one queue.
type fakeSQS struct {
	mu       sync.Mutex
	messages []*message
	receipts int
	// fail has a call fail: before it does what it is for, or after.
	before, after map[string]error
	calls         map[string]int
	deepest       int
	// one has each receive give no more than one message, though there may be more.
	one bool
}

func (f *fakeSQS) call(name string, do func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[name]++
	if err := f.before[name]; err != nil {
		return err
	}
	do()
	f.deepest = max(f.deepest, len(f.messages))
	return f.after[name]
}

// set has calls fail from now on.
func (f *fakeSQS) set(before, after map[string]error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *fakeSQS) put(bodies ...string) {
	_ = f.call("test", func() {
		for _, body := range bodies {
			f.messages = append(f.messages, &message{body: body, visible: time.Now()})
		}
	})
}

func (f *fakeSQS) depth() (n int) {
	_ = f.call("test", func() { n = len(f.messages) })
	return n
}

// GetQueueUrl is that of the one queue.
func (f *fakeSQS) GetQueueUrl(context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error) { //nolint:revive,staticcheck // The SDK's name.
	return &sqs.GetQueueUrlOutput{QueueUrl: aws.String("url")}, f.call("find", func() {})
}

// GetQueueAttributes counts every message as visible.
func (f *fakeSQS) GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error) {
	attributes := map[string]string{"ApproximateNumberOfMessagesNotVisible": "0", "ApproximateNumberOfMessagesDelayed": "0"}
	err := f.call("depth", func() { attributes["ApproximateNumberOfMessages"] = strconv.Itoa(len(f.messages)) })
	return &sqs.GetQueueAttributesOutput{Attributes: attributes}, err
}

// ReceiveMessage polls every 50ms.
func (f *fakeSQS) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, _ ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	until := time.Now().Add(time.Duration(in.WaitTimeSeconds) * time.Second)
	for {
		out := &sqs.ReceiveMessageOutput{}
		err := f.call("receive", func() {
			rand.Shuffle(len(f.messages), func(i, j int) { f.messages[i], f.messages[j] = f.messages[j], f.messages[i] })
			for _, m := range f.messages {
				if f.one && len(out.Messages) == 1 {
					break
				}
				if m.visible.After(time.Now()) || len(out.Messages) == int(in.MaxNumberOfMessages) {
					continue
				}
				f.receipts++
				m.receipt = f.receipts
				m.visible = time.Now().Add(time.Duration(in.VisibilityTimeout) * time.Second)
				out.Messages = append(out.Messages, types.Message{Body: &m.body, ReceiptHandle: aws.String(strconv.Itoa(m.receipt))})
			}
		})
		if err != nil || len(out.Messages) > 0 || !time.Now().Before(until) {
			return out, err
		}
		if !wait(ctx, 50*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// SendMessage delays whole seconds.
func (f *fakeSQS) SendMessage(_ context.Context, in *sqs.SendMessageInput, _ ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	if in.DelaySeconds < 0 || in.DelaySeconds > 900 {
		return nil, fmt.Errorf("delay of %d", in.DelaySeconds)
	}
	return &sqs.SendMessageOutput{}, f.call("send", func() {
		f.messages = append(f.messages, &message{body: *in.MessageBody, visible: time.Now().Add(time.Duration(in.DelaySeconds) * time.Second)})
	})
}

func (f *fakeSQS) of(receipt *string) func(*message) bool {
	return func(m *message) bool { return strconv.Itoa(m.receipt) == *receipt }
}

// DeleteMessage deletes by the newest receipt only.
func (f *fakeSQS) DeleteMessage(_ context.Context, in *sqs.DeleteMessageInput, _ ...func(*sqs.Options)) (*sqs.DeleteMessageOutput, error) {
	return &sqs.DeleteMessageOutput{}, f.call("delete", func() { f.messages = slices.DeleteFunc(f.messages, f.of(in.ReceiptHandle)) })
}

// ChangeMessageVisibility hides from now on.
func (f *fakeSQS) ChangeMessageVisibility(_ context.Context, in *sqs.ChangeMessageVisibilityInput, _ ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityOutput, error) {
	return &sqs.ChangeMessageVisibilityOutput{}, f.call("visibility", func() {
		if i := slices.IndexFunc(f.messages, f.of(in.ReceiptHandle)); i >= 0 {
			f.messages[i].visible = time.Now().Add(time.Duration(in.VisibilityTimeout) * time.Second)
		}
	})
}

// driven is what loads were set, by whom and when.
type driven struct {
	mu    sync.Mutex
	loads []load
}

type load struct {
	who   int
	value float64
	at    time.Time
}

func (d *driven) values() []float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var values []float64
	for _, l := range d.loads {
		values = append(values, l.value)
	}
	return values
}

func (d *driven) len() int { return len(d.values()) }

// loop is of a wave of 60 steps of 24 s, whose loads are noted.
func (d *driven) loop(f *fakeSQS, who int) *loop {
	l := &loop{queue: &queue{client: f, name: "sine"}, wave: wave{0, 2}, steps: 60, interval: 24 * time.Second}
	l.drive = func(_ context.Context, value float64) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.loads = append(d.loads, load{who, value, time.Now()})
	}
	return l
}

// running runs a loop until the function is called that it returns.
func running(t *testing.T, l *loop) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { l.run(ctx) })
	return func() {
		cancel()
		all.Wait()
	}
}

// sine is the loads of the steps from one on.
func sine(from, n int) []float64 {
	var values []float64
	for i := range n {
		values = append(values, wave{0, 2}.at(math.Mod(float64(from+i), 60)/60))
	}
	return values
}

func same(got, want []float64) bool {
	return slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
}

func TestWave(t *testing.T) {
	w := wave{5, 45}
	for phase, want := range map[float64]float64{0: 5, 0.25: 25, 0.5: 45, 0.75: 25} {
		if got := w.at(phase); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v at %v, want %v", got, phase, want)
		}
	}
	phase := 0.0
	for step := range 60_000 {
		if want := float64(step%60) / 60; math.Abs(phase-want) > 1e-12 {
			t.Fatalf("step %d is at %v, want %v", step, phase, want)
		}
		phase = turn(phase, 60)
	}
	// With other steps it goes on from the nearest.
	if got := turn(0.5, 7); math.Abs(got-5.0/7) > 1e-12 {
		t.Errorf("goes on from half at %v, want 5/7", got)
	}
}

func TestGoesThroughTheWaveInItsPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		l := d.loop(f, 1)
		drive := l.drive
		l.drive = func(ctx context.Context, value float64) {
			drive(ctx, value)
			<-time.After(time.Second) // It does not make steps longer.
		}
		stop := running(t, l)
		<-time.After(50 * time.Minute)
		stop()
		got := d.values()
		if len(got) < 123 || len(got) > 126 || !same(got, sine(0, len(got))) {
			t.Errorf("%d steps in 50 minutes, want 125 of one wave: %v", len(got), got)
		}
		if f.depth() != 1 || f.deepest > 2 {
			t.Errorf("%d messages, at most %d; want one, and the next for a moment", f.depth(), f.deepest)
		}
		if n := f.calls["receive"]; n > 50*60*100/20 {
			t.Errorf("polled %d times", n)
		}
	})
}

func TestRestartGoesOnWhereItWas(t *testing.T) {
	for _, away := range []time.Duration{0, 10 * time.Second, 3 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			f, d := &fakeSQS{}, &driven{}
			stop := running(t, d.loop(f, 1))
			<-time.After(10*time.Minute + 5*time.Second)
			stop()
			n := d.len()
			<-time.After(away)
			stop = running(t, d.loop(f, 2))
			<-time.After(10 * time.Minute)
			stop()
			got := d.values()
			if !same(got, sine(0, len(got))) || len(got) < n+24 || len(got) > n+27 {
				t.Errorf("away for %v: %d steps and then %d, want one wave: %v", away, n, len(got)-n, got)
			}
		})
	}
}

// A crash at each of the calls: what it was for is done or not, and nothing after it is.
func TestCrashLosesNothingAndRepeatsAStepAtMost(t *testing.T) {
	for _, call := range []string{"receive", "send", "delete"} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprint(call, " done ", done), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f, d := &fakeSQS{}, &driven{}
					stop := running(t, d.loop(f, 1))
					<-time.After(10 * time.Minute)
					crash := map[string]error{"receive": errCrash, "send": errCrash, "delete": errCrash, "visibility": errCrash}
					before, after := map[string]error{}, map[string]error{}
					if done {
						after[call] = errCrash
					} else {
						before[call] = errCrash
					}
					calls := func() (n int) { _ = f.call("test", func() { n = f.calls[call] }); return n }
					f.set(before, after)
					for n := calls(); calls() == n; {
						<-time.After(10 * time.Millisecond)
					}
					f.set(crash, nil) // It is dead: nothing else comes of it.
					stop()
					f.set(nil, nil)
					n := d.len()
					stop = running(t, d.loop(f, 2))
					<-time.After(10 * time.Minute)
					stop()
					got := d.values()
					// What the dead one did last may be there twice.
					once := slices.Compact(slices.Clone(got))
					if len(got)-len(once) > 1 || !same(once, sine(0, len(once))) || len(got) < n+22 {
						t.Errorf("%d steps and then %d, want one wave with one repeated at most: %v", n, len(got)-n, got)
					}
					if f.depth() != 1 {
						t.Errorf("%d messages are left, want one", f.depth())
					}
				})
			})
		}
	}
}

var errCrash = errors.New("crash")

func TestTwoSimulatorsAreNotTwiceAsFast(t *testing.T) {
	const now, ahead = `{"step":5,"phase":0.0833,"due":"2000-01-01T00:00:00Z"}`, `{"step":6,"phase":0.1,"due":"2000-01-01T00:00:00Z"}`
	for name, begin := range map[string][]string{
		"from an empty queue":            nil,
		"with two messages of one step":  {now, now},
		"with messages of several steps": {now, ahead, now, ahead},
	} {
		for _, one := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", one at a time ", one), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f, d := &fakeSQS{one: one}, &driven{}
					f.put(begin...)
					stop1, stop2 := running(t, d.loop(f, 1)), running(t, d.loop(f, 2))
					<-time.After(3 * time.Hour) // 450 steps
					stop1()
					stop2()
					if f.depth() != 1 {
						t.Errorf("%d messages are left, want one", f.depth())
					}
					// At first there may be two waves, which are the same one.
					all := d.values()
					if len(all) < 445 || len(all) > 480 || !isOnward(all[100:]) {
						t.Errorf("%d steps in 3 hours, want 450, and one wave after the first ones", len(all))
					}
				})
			})
		}
	}
}

// isOnward says whether each load is that of the step after the one before.
func isOnward(loads []float64) bool {
	for from := range 60 {
		if same(loads, sine(from, len(loads))) {
			return true
		}
	}
	return false
}

func TestMessageOfAStepThatWasTakenIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		l := d.loop(f, 1)
		l.poll = shortPoll
		l.done.Store(&position{Step: 3})
		f.put(`{"step":3,"phase":0.05,"due":"2000-01-01T00:00:00Z"}`)
		if err := l.next(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d.len() != 0 || f.depth() != 0 {
			t.Errorf("%d steps were taken, and %d messages are left", d.len(), f.depth())
		}
	})
}

func TestOneTakesOverFromTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		stop1 := running(t, d.loop(f, 1))
		stop2 := running(t, d.loop(f, 2))
		<-time.After(10 * time.Minute)
		stop1()
		n := d.len()
		<-time.After(10 * time.Minute)
		stop2()
		if got := d.len() - n; got < 24 || got > 26 {
			t.Errorf("%d steps of the one that is left in 10 minutes, want 25", got)
		}
	})
}

func TestWithoutSQSTheLoadStaysAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		stop := running(t, d.loop(f, 1))
		<-time.After(10 * time.Minute)
		away := errors.New("away")
		all := map[string]error{"find": away, "depth": away, "receive": away, "send": away, "delete": away, "visibility": away}
		f.set(all, nil)
		n := d.len()
		<-time.After(time.Hour)
		if d.len() != n {
			t.Errorf("%d steps without a queue", d.len()-n)
		}
		f.set(nil, nil)
		<-time.After(10 * time.Minute)
		stop()
		if got := d.values(); len(got) < n+24 || !same(got, sine(0, len(got))) {
			t.Errorf("%d and then %d steps, want one wave", n, len(got)-n)
		}
	})
}

// A message from elsewhere may say the last step that there can be.
func TestWaveGoesOnAfterTheLastStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		f.put(fmt.Sprintf(`{"step":%d,"phase":0.5}`, math.MaxInt64-1))
		stop := running(t, d.loop(f, 1))
		<-time.After(10 * time.Minute)
		stop()
		// There are 25 steps of 24 s in it.
		if got := d.values(); len(got) < 20 || !same(got, sine(30, len(got))) {
			t.Errorf("%d steps in 10 minutes, want some 25 of one wave: %v", len(got), got)
		}
		if f.depth() != 1 {
			t.Errorf("%d messages, want one", f.depth())
		}
	})
}

// A clock that is set back has the next step far in the future, and its message is there.
func TestClockSetBackDoesNotStopTheWave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		l := d.loop(f, 1)
		l.due = time.Now().Add(3 * time.Hour)
		f.put(`{"step":7,"phase":0.1}`)
		stop := running(t, l)
		<-time.After(5 * time.Minute)
		stop()
		if n := d.len(); n < 9 {
			t.Errorf("%d steps in 5 minutes, want 10", n)
		}
	})
}

func TestPurgedQueueDoesNotEndTheWave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		stop := running(t, d.loop(f, 1))
		<-time.After(10 * time.Minute)
		_ = f.call("test", func() { f.messages = nil })
		<-time.After(10 * time.Minute)
		stop()
		if got := d.values(); len(got) < 48 || !same(got, sine(0, len(got))) {
			t.Errorf("%d steps, want one wave: %v", len(got), got)
		}
	})
}

func TestMessagesThatAreNoPositionsAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d := &fakeSQS{}, &driven{}
		f.put("", "x", "{}x", `{"step":-1}`, `{"step":1,"phase":1}`, `{"step":1,"phase":-0.1}`, `{"step":9223372036854775807}`, `{"step":1e99}`)
		body, err := json.Marshal(position{Step: 7, Phase: 0.5, Due: time.Now().Add(1000 * time.Hour)}) // Of a wrong clock.
		if err != nil {
			t.Fatal(err)
		}
		f.put(string(body))
		stop := running(t, d.loop(f, 1))
		<-time.After(time.Minute)
		stop()
		if got := d.values(); len(got) < 2 || !same(got, sine(30, len(got))) || f.depth() != 1 {
			t.Errorf("loads %v with %d messages left, want those from half a period on, and one message", got, f.depth())
		}
	})
}

func TestStepsLongerThanSQSDelaysAndShorterThanASecond(t *testing.T) {
	for _, interval := range []time.Duration{time.Hour, 1500 * time.Millisecond, 100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			f, d := &fakeSQS{}, &driven{}
			l := d.loop(f, 1)
			l.interval = interval
			stop := running(t, l)
			<-time.After(5*time.Second + 20*interval) // Until it has begun, and then.
			stop()
			got := d.values()
			least, most := 18, 21+int(5*time.Second/interval)
			if !same(got, sine(0, len(got))) || len(got) < least || len(got) > most {
				t.Errorf("%v: %d steps, want from %d to %d", interval, len(got), least, most)
			}
			if interval == 100*time.Millisecond {
				for i := 2; i < len(d.loads); i++ {
					if gap := d.loads[i].at.Sub(d.loads[i-1].at); gap > 2*interval {
						t.Errorf("%v between two steps of %v", gap, interval)
					}
				}
			}
		})
	}
}
