// A rush with nGrinder 3.5 (https://naver.github.io/ngrinder): each run of each thread is a new user, who claims until the answer is
// final. As the test's parameter give API_URL/v1/coupons/ID of a coupon that is open (README.md, "A first coupon").
//
// Choose more Vusers times run counts than the quantity. A test passes if its answer is final; afterwards
// `firstcome-reconciler once --coupon ID` says whether exactly the quantity was issued.

import static net.grinder.script.Grinder.grinder
import static org.junit.Assert.assertTrue

import net.grinder.script.GTest
import net.grinder.scriptengine.groovy.junit.GrinderRunner
import net.grinder.scriptengine.groovy.junit.annotation.BeforeProcess
import net.grinder.scriptengine.groovy.junit.annotation.BeforeThread
import org.junit.Test
import org.junit.runner.RunWith
import org.ngrinder.http.HTTPRequest
import org.ngrinder.http.HTTPRequestControl
import org.ngrinder.http.HTTPResponse

@RunWith(GrinderRunner)
class Rush {
    static GTest claims
    // Each thread has its own, because the header is its user's.
    HTTPRequest request

    @BeforeProcess
    static void beforeProcess() {
        HTTPRequestControl.setConnectionTimeout(10000)
        claims = new GTest(1, "claim")
    }

    @BeforeThread
    void beforeThread() {
        request = new HTTPRequest()
        claims.record(this, "claim")
        grinder.statistics.delayReports = true
    }

    @Test
    void claim() {
        String user = "ngrinder-${grinder.agentNumber}-${grinder.processNumber}-${grinder.threadNumber}-${grinder.runNumber}"
        request.setHeaders(["X-User-Id": user])
        // A retry is always safe: a user who already has a slot gets the same one.
        for (int attempt = 0; attempt < 30; attempt++) {
            HTTPResponse answer = request.POST("${System.getProperty("param")}/claims", new byte[0])
            if (answer.statusCode == 503) {
                sleep(1000)
                continue
            }
            boolean isAccepted = answer.statusCode in [200, 202]
            assertTrue(answer.bodyText, isAccepted || answer.bodyText.contains('"sold_out"'))
            return
        }
        assertTrue("no final answer", false)
    }
}
