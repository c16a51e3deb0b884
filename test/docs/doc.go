// Package docs holds the guides of docs/ to what they say. Its tests take the commands, the
// files and what the commands print out of the pages themselves, and run them, in the order
// of the page, on a real control plane with real Helm and the real adapter. What is there
// before, such as another adapter, they make up.
//
// A comment in front of a code block says what it is:
//
//	<!-- test: step -->                 run it; the block of text behind it has to be printed
//	<!-- test: step, until printed -->  the same, again and again until it prints that
//	<!-- test: step, watched -->        run it beside the steps behind it; what they print in the
//	                                    end has to come
//	<!-- test: step, road NAME -->      run it on that road only, see TestEKSPage
//	<!-- test: back NAME -->            run it, check that all is as before, and do again what
//	                                    it took back: the steps of the section
//	<!-- test: file NAME -->            what the reader saves as NAME
//	<!-- test: rules -->                a configuration file
//
// In a block of text … stands for anything, blanks count once, and other lines may be
// printed between those that it has.
//
// Commands run as they stand, with two things that the bed has to add: Helm gets the ports
// and addresses of this machine's processes, as values that win over the page's, and
// 127.0.0.1:6443, which a port-forward would be, is the adapter's own port.
package docs
